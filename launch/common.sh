# Read by the scripts beside it.
# shellcheck shell=bash

DRY_RUN=${DRY_RUN:-0}

die() {
  echo "error: $*" >&2
  exit 2
}

# Runs a command, or with --dry_run prints it as one could type it.
run() {
  if [[ $DRY_RUN == 1 ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# require NAME MEANING: the environment has to say it.
require() {
  [[ -n ${!1:-} ]] || die "\$$1 is not set: $2"
}
