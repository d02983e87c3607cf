#!/usr/bin/env bash
# A run on a Cloud TPU slice, through queued resources.
#
#   launch/tpu_pod.sh [--dry_run] COMMAND NAME [flags of flexmdm_jax.train, or of the verb ...]
#
# create   ask for the slice           install  put this repository on every worker
# train    start or take up the run    logs     follow the output of worker 0
# sample   generate with the run       evaluate  measure it: both on all workers at once
# status   what Cloud TPU says         delete   give the slice back
# all      create, install and train, again and again until the run is through: a slice that was
#          preempted is asked for anew, and the run goes on from its last checkpoint
#
# From the environment: PROJECT, ZONE, BUCKET (mounted as ~/bucket on every worker), ACCELERATOR
# (v5litepod-16), RUNTIME (v2-alpha-tpuv5-lite), SPOT=1 for preemptible capacity.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ ${1:-} == --dry_run ]] && DRY_RUN=1 && shift
COMMAND=${1:-} NAME=${2:-}
[[ $COMMAND && $NAME ]] ||
  die "usage: $0 [--dry_run] create|install|train|sample|evaluate|logs|status|delete|all NAME [flags]"
shift 2
require PROJECT "the Google Cloud project"
require ZONE "the zone of the slice, as us-west4-a"
require BUCKET "the storage bucket for data and checkpoints, without gs://"
ACCELERATOR=${ACCELERATOR:-v5litepod-16}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
WHERE=("--project=$PROJECT" "--zone=$ZONE")
POLL=${POLL:-30}
MOUNT="mountpoint -q bucket || gcsfuse --implicit-dirs $BUCKET bucket"

on_workers() {
  run gcloud compute tpus tpu-vm ssh "$NAME" "${WHERE[@]}" "--worker=$1" "--command=$2"
}

create() {
  local spot=()
  [[ ${SPOT:-0} == 1 ]] && spot=(--spot)
  run gcloud compute tpus queued-resources create "$NAME" "${WHERE[@]}" "--node-id=$NAME" \
    "--accelerator-type=$ACCELERATOR" "--runtime-version=$RUNTIME" ${spot[@]+"${spot[@]}"}
}

state() {
  gcloud compute tpus queued-resources describe "$NAME" "${WHERE[@]}" \
    '--format=value(state.state)' 2>/dev/null || echo ABSENT
}

install() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  run git -C "$(dirname "${BASH_SOURCE[0]}")/.." archive --format=tar.gz "--output=$archive" HEAD
  run gcloud compute tpus tpu-vm scp "$archive" "$NAME:flexmdm_jax.tar.gz" "${WHERE[@]}" --worker=all
  rm -f "$archive"
  on_workers all "set -e; mkdir -p flexmdm_jax bucket
tar xzf flexmdm_jax.tar.gz -C flexmdm_jax
python3 -m venv env && env/bin/pip install -q -r flexmdm_jax/requirements.txt 'jax[tpu]' ./flexmdm_jax
$MOUNT"
}

train() {
  local arguments
  arguments=$(printf '%q ' "--workdir=bucket/runs/$NAME" "$@")
  # Each worker takes its process up again until the run is through (0, and not because it was
  # told to stop) or something needs its owner (2).
  on_workers all "$MOUNT
while true; do
  env/bin/python -m flexmdm_jax.train --multihost --compilation_cache=\$HOME/xla_cache $arguments 2>&1 | tee train.log
  code=\${PIPESTATUS[0]}
  if [ \$code = 2 ]; then exit 2; fi
  if [ \$code = 0 ] && ! grep -q 'told to stop' train.log; then exit 0; fi
  sleep 10
done"
}

# together VERB FLAGS: runs a verb once, by all workers as processes of one run.
together() {
  local verb=$1 arguments
  shift
  arguments=$(printf '%q ' "--workdir=bucket/runs/$NAME" "$@")
  on_workers all "$MOUNT
env/bin/python -m flexmdm_jax.$verb --multihost $arguments"
}

delete() {
  run gcloud compute tpus queued-resources delete "$NAME" "${WHERE[@]}" --quiet --force
}

until_done() {
  local code now
  if [[ $DRY_RUN == 1 ]]; then
    create && install && train "$@"
    return
  fi
  while true; do
    now=$(state)
    case $now in
      ABSENT) create ;;
      ACTIVE)
        install && code=0 && { train "$@" || code=$?; } || code=1
        ((code == 0 || code == 2)) && return "$code"
        ;;
      SUSPENDED | SUSPENDING | FAILED) delete ;;
    esac
    sleep "$POLL"
  done
}

case $COMMAND in
  create) create ;;
  install) install ;;
  train) train "$@" ;;
  sample | evaluate) together "$COMMAND" "$@" ;;
  logs) on_workers 0 'tail -n 100 -f train.log' ;;
  status) run gcloud compute tpus queued-resources describe "$NAME" "${WHERE[@]}" ;;
  delete) delete ;;
  all) until_done "$@" ;;
  *) die "unknown command $COMMAND" ;;
esac
