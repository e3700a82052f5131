#!/usr/bin/env bash
# One run on one TPU VM or on all hosts of a slice, from the repository's root:
#
#   export TPU_NAME=itune TPU_ZONE=us-east5-b TPU_TYPE=v6e-8    # or v6e-32: 8 hosts
#   launch/tpu_vm.sh create [--spot] [FLAG ...]   # asks for it in the queue; further flags go to gcloud
#   launch/tpu_vm.sh status                       # of the request, and of the run once there is one
#   launch/tpu_vm.sh setup                        # once it is ACTIVE: the last commit and its environment
#   launch/tpu_vm.sh run --gin_file=RECIPE.gin --workdir=FOLDER     # itune.train; the same again resumes
#   launch/tpu_vm.sh run ITUNE_DATA_DIR=data ablate --gin_file=STUDY.gin --part=0/2    # variables, another command
#   launch/tpu_vm.sh fetch FOLDER                 # of the VM's checkout, to here
#   launch/tpu_vm.sh delete                       # the VM and its disk
#
# On a slice of several hosts --workdir and ITUNE_CACHE_DIR lie on a disk that all of them mount (a Filestore, say).
# --dry-run, before the word, prints what it would call and calls nothing. TPU_VERSION is the VM's image.
set -euo pipefail

fail() {
  echo "launch/tpu_vm.sh: $*" >&2
  exit 2
}

dry=
if [ "${1:-}" = --dry-run ]; then dry=1; shift; fi
what="${1:-}"
[ -n "$what" ] || fail "say one of create, status, setup, run, fetch, delete"
shift
: "${TPU_NAME:?launch/tpu_vm.sh: set TPU_NAME}" "${TPU_ZONE:?launch/tpu_vm.sh: set TPU_ZONE}"

call() {
  if [ -n "$dry" ]; then
    printf '%q ' gcloud "$@"
    echo
  else
    gcloud "$@"
  fi
}

queue() { call compute tpus queued-resources "$1" "$TPU_NAME" --zone="$TPU_ZONE" "${@:2}"; }
# On one host its name is enough; gcloud asks for words about several.
on_vm() { call compute tpus tpu-vm ssh "$TPU_NAME" --zone="$TPU_ZONE" "${workers[@]}" --command="$1"; }

# In every generation a type that ends in more than 8 (of cores or of chips) has several hosts.
workers=() processes=()
if [ -n "${TPU_TYPE:-}" ]; then
  [[ "$TPU_TYPE" =~ -([0-9]+)$ ]] || fail "TPU_TYPE=$TPU_TYPE: must be like v6e-8"
  if [ "${BASH_REMATCH[1]}" -gt 8 ]; then workers=(--worker=all) processes=(--coordinator=auto); fi
fi

# The VM's image that goes with the type.
image() {
  case "$TPU_TYPE" in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

# For bash on the VM: the environment, in ~/itune. The lock is for CPUs; libtpu is the one that jax asks for.
# shellcheck disable=SC2016  # for the VM's bash, not for this one
SETUP='set -eu; mkdir -p itune; tar -xz -C itune; cd itune
sudo apt-get update -qq; sudo DEBIAN_FRONTEND=noninteractive apt-get install -qq -y python3.11 python3.11-venv git make
make venv
version="$(sed -n "s/^jax==\([0-9.]*\).*/\1/p" requirements.lock)"
.venv/bin/python -m pip install --quiet "jax[tpu]==$version"
JAX_PLATFORMS=tpu,cpu .venv/bin/python -c "import jax; print(jax.devices())"'

case "$what" in
  create)
    : "${TPU_TYPE:?launch/tpu_vm.sh: set TPU_TYPE, such as v6e-8}"
    queue create --node-id="$TPU_NAME" --accelerator-type="$TPU_TYPE" \
      --runtime-version="${TPU_VERSION:-$(image)}" "$@"
    ;;
  status)
    queue describe --format="value(state.state)"
    # The journal ends with the exit code: "Main process exited, code=exited, status=75/TEMPFAIL".
    on_vm "systemctl is-active itune; sudo journalctl --unit=itune --lines=20 --no-pager" ||
      echo "launch/tpu_vm.sh: no VM yet, or it can't be reached" >&2
    ;;
  setup)
    archive="$(mktemp)"
    trap 'rm -f "$archive"' EXIT
    git archive --format=tar.gz --output="$archive" HEAD
    on_vm "$SETUP" <"$archive"
    ;;
  run)
    # systemd keeps the run when ssh ends, and sends SIGTERM when the VM is told to stop.
    unit=(sudo systemd-run --unit=itune --collect --property=TimeoutStopSec=120 "--setenv=JAX_PLATFORMS=tpu,cpu")
    while [[ "${1:-}" =~ ^[A-Z_]+= ]]; do unit+=("--setenv=$1"); shift; done
    command=train
    if [[ "${1:-}" =~ ^[a-z]+$ ]]; then command="$1"; shift; fi
    [ $# -gt 0 ] || fail "run: say what, such as --gin_file=gin_configs/recipes/quickstart.gin"
    if [ "$command" = train ]; then set -- "$@" "${processes[@]}"; elif [ ${#workers[@]} -gt 0 ]; then
      fail "run $command: one process; TPU_TYPE=$TPU_TYPE has several hosts: take at most -8"
    fi
    # Words are quoted for the VM's bash; the user and the folder are the VM's.
    # shellcheck disable=SC2016
    on_vm "cd itune && $(printf '%q ' "${unit[@]}")"'--uid="$(id -u)" --working-directory="$PWD" '"\
.venv/bin/python -m itune.$command $(printf '%q ' "$@")"
    ;;
  fetch)
    [ $# -eq 1 ] || fail "fetch: say one folder of the VM's checkout, such as runs/quickstart"
    mkdir -p "$(dirname "$1")"
    call compute tpus tpu-vm scp --recurse "$TPU_NAME:itune/$1" "$(dirname "$1")" --zone="$TPU_ZONE"
    ;;
  delete)
    # --force: with the VM that the request has become.
    queue delete --force --quiet "$@"
    ;;
  *) fail "there is no $what; say one of create, status, setup, run, fetch, delete" ;;
esac
