#!/usr/bin/env bash
# A run on a TPU slice of a GKE cluster, as a JobSet.
#
#   launch/gke.sh [--dry_run] COMMAND NAME [flags of flexmdm_jax.train ...]
#
# create   start the run; JobSet starts it again whenever a pod is lost
# logs     follow the first worker      status   what Kubernetes says      delete   end it
#
# From the environment: BUCKET and IMAGE (a container with this package and jax[tpu]); and, with
# defaults for one v5e-16, TPU_TYPE, TPU_TOPOLOGY, HOSTS, CHIPS_PER_HOST, SLICES, SERVICE_ACCOUNT,
# MAX_RESTARTS. kubectl has to point at the cluster.
set -euo pipefail
HERE=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=common.sh
source "$HERE/common.sh"

[[ ${1:-} == --dry_run ]] && DRY_RUN=1 && shift
COMMAND=${1:-} NAME=${2:-}
[[ $COMMAND && $NAME ]] || die "usage: $0 [--dry_run] create|logs|status|delete NAME [flags]"
[[ $NAME =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] || die "$NAME: names are lower case letters, digits and -"
shift 2

# Prints the JobSet with every ${VARIABLE} replaced.
manifest() {
  local text name value
  text=$(grep -v '^#' "$HERE/gke_jobset.yaml")
  for name in NAME SLICES HOSTS CHIPS_PER_HOST TPU_TYPE TPU_TOPOLOGY MAX_RESTARTS \
    SERVICE_ACCOUNT IMAGE BUCKET FLAGS; do
    value=${!name}
    # A quoted replacement is taken literally.
    text=${text//"\${$name}"/"$value"}
  done
  printf '%s\n' "$text"
}

create() {
  require BUCKET "the storage bucket for data and checkpoints, without gs://"
  require IMAGE "a container image with this package and jax[tpu]"
  TPU_TYPE=${TPU_TYPE:-tpu-v5-lite-podslice} TPU_TOPOLOGY=${TPU_TOPOLOGY:-4x4}
  HOSTS=${HOSTS:-4} CHIPS_PER_HOST=${CHIPS_PER_HOST:-4} SLICES=${SLICES:-1}
  MAX_RESTARTS=${MAX_RESTARTS:-100} SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default}
  # manifest() reads it by its name.
  # shellcheck disable=SC2034
  FLAGS=$(printf '%q ' "$@")
  manifest | if [[ $DRY_RUN == 1 ]]; then cat; else kubectl apply -f -; fi
}

case $COMMAND in
  create) create "$@" ;;
  logs) run kubectl logs -f "job/$NAME-train-0" ;;
  status) run kubectl get jobset "$NAME" -o wide ;;
  delete) run kubectl delete jobset "$NAME" ;;
  *) die "unknown command $COMMAND" ;;
esac
