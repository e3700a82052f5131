#!/usr/bin/env bash
# A run of several processes on this machine's CPU, each with devices of its own; to see and test what a cluster does:
#
#   launch/local.sh 2 4 --gin_file=gin_configs/recipes/quickstart.gin --gin.BATCH_SIZE=8 --workdir=runs/two_by_four
#
# (PROCESSES, DEVICES of each, then itune.train's flags). Ctrl-C and SIGTERM go to all. Ends as the run does: with the
# largest exit code below 128 of its processes, or, where all were killed, with a larger one.
set -euo pipefail
set -m # each process in a group of its own: Ctrl-C reaches this script, which hands it on once

if [[ ! "${1:-}" =~ ^[1-9][0-9]*$ || ! "${2:-}" =~ ^[1-9][0-9]*$ || $# -lt 3 ]]; then
  echo "launch/local.sh: say PROCESSES DEVICES and itune.train's flags, such as 2 4 --gin_file=RECIPE.gin" >&2
  exit 2
fi
count="$1" devices="$2"
shift 2
python="${ITUNE_PYTHON:-.venv/bin/python}"
port="$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')"
export JAX_PLATFORMS=cpu XLA_FLAGS="--xla_force_host_platform_device_count=$devices ${XLA_FLAGS:-}"

pids=()
# shellcheck disable=SC2329  # the traps call it
hand_on() { local pid; for pid in "${pids[@]}"; do kill -s "$1" "$pid" 2>/dev/null || true; done; }
trap 'hand_on INT' INT
trap 'hand_on TERM' TERM
for ((i = 0; i < count; i++)); do
  "$python" -m itune.train "$@" --coordinator="127.0.0.1:$port" --num_processes="$count" --process_id="$i" &
  pids+=($!)
done

ended=0 killed=0
for pid in "${pids[@]}"; do
  while true; do
    code=0
    wait "$pid" || code=$?
    # A signal that is handed on ends the wait, and not what is waited for.
    kill -0 "$pid" 2>/dev/null || break
  done
  if [ "$code" -lt 128 ]; then
    if [ "$code" -gt "$ended" ]; then ended="$code"; fi
  elif [ "$code" -gt "$killed" ]; then killed="$code"; fi
done
if [ "$ended" = 0 ]; then ended="$killed"; fi
exit "$ended"
