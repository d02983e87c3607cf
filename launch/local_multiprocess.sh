#!/usr/bin/env bash
# Trains with several processes on this machine, restarting all of them when one dies.
#
#   launch/local_multiprocess.sh [--dry_run] NUM_PROCESSES [flags of flexmdm_jax.train ...]
#
# PYTHON (python3), PORT (8476) and MAX_RESTARTS (100) are taken from the environment. SIGTERM is
# handed on: everything is saved, and the script ends with 0.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ ${1:-} == --dry_run ]] && DRY_RUN=1 && shift
NUM=${1:-}
[[ $NUM =~ ^[1-9][0-9]*$ ]] || die "usage: $0 [--dry_run] NUM_PROCESSES [flags of flexmdm_jax.train]"
shift
PORT=${PORT:-8476}
MAX_RESTARTS=${MAX_RESTARTS:-100}
PIDS=()
STOPPING=0

stop() {
  STOPPING=1
  kill -TERM "${PIDS[@]}" 2>/dev/null || true
}
trap stop TERM INT

start_all() {
  PIDS=()
  local id
  for ((id = 0; id < NUM; id++)); do
    local command=("${PYTHON:-python3}" -m flexmdm_jax.train "$@"
      "--coordinator=127.0.0.1:$PORT" "--num_processes=$NUM" "--process_id=$id")
    if [[ $DRY_RUN == 1 ]]; then
      run "${command[@]}"
    else
      "${command[@]}" &
      PIDS+=($!)
    fi
  done
}

# Waits for all processes; the first to fail takes the others with it. Sets STATUS.
await_all() {
  STATUS=0
  local left=$NUM code
  while ((left > 0)); do
    code=0
    wait -n || code=$?
    if ((STOPPING && code > 128)); then
      # The wait was interrupted by the signal, or a process had not begun to listen for it.
      jobs -rp | grep -q . || return 0
      continue
    fi
    left=$((left - 1))
    if ((code != 0 && STATUS == 0)); then
      STATUS=$code
      kill -KILL "${PIDS[@]}" 2>/dev/null || true
    fi
  done
}

for ((restart = 0; ; restart++)); do
  start_all "$@"
  [[ $DRY_RUN == 1 ]] && exit 0
  await_all
  ((STATUS == 0 || STOPPING)) && exit 0
  ((STATUS == 2)) && exit 2
  ((restart < MAX_RESTARTS)) || die "still failing after $MAX_RESTARTS restarts"
  echo "a process ended with status $STATUS; all start again" >&2
done
