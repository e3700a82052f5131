# shellcheck shell=bash
# For the batch scripts beside this file: `run_and_requeue COMMAND ...` makes it the job's step, and ends as it does.
#
# Before the time limit Slurm signals the batch script alone (--signal=B:TERM), and bash hands no signal on by itself;
# srun does. Where a job is preempted Slurm signals its steps, and that is why there is one. itune then saves and ends
# with 75; the job is queued again and goes on from there. Any other exit code is the job's own.
run_and_requeue() {
  local child code signalled job
  # srun does not take this from sbatch by itself.
  if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi
  srun --ntasks=1 "$@" &
  child=$!
  trap 'signalled=1; kill -TERM "$child" 2>/dev/null || true' TERM
  signalled=1
  while [ -n "$signalled" ]; do  # a signal ends bash's waiting, not the run
    signalled=
    code=0
    wait "$child" || code=$?
  done
  if [ "$code" = 75 ]; then
    job="$SLURM_JOB_ID"
    # A task of an array keeps its number, and with it its runs.
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"; fi
    scontrol requeue "$job"
  fi
  exit "$code"
}
