# shellcheck shell=bash
# For the batch scripts beside this file: `run_and_requeue TASKS COMMAND ...` makes it the job's step, and ends as it does.
#
# Slurm signals the steps of a job, and not its batch script, before the time limit (--signal=TERM without B:) and when
# the job's preemption begins. itune then saves and ends with 75; the job is queued again and goes on from there. Any
# other exit code is the job's own.
run_and_requeue() {
  local code=0 job tasks="$1"
  shift
  # srun does not take this from sbatch by itself.
  if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi
  # Where Slurm ends the whole job at once the script gets the signal too, and has to outlive its step. It must not hand
  # it on: srun answers by killing the step.
  trap : TERM
  srun --ntasks="$tasks" "$@" || code=$?
  if [ "$code" = 75 ]; then
    job="$SLURM_JOB_ID"
    # A task of an array keeps its number, and with it its runs.
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"; fi
    scontrol requeue "$job" || true  # Slurm may have done so already
  fi
  exit "$code"
}
