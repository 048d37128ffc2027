#!/usr/bin/env bash
# Trains on Cloud TPU: asks for slices in the queue, installs, runs on all hosts, and resumes after preemptions.
#
#   launch/tpu.sh COMMAND --name=NAME --zone=ZONE [flags] [-- flags of mmkp_jax.main]
#
# Commands
#   babysit   all of it: create, install, run; and again when slices were lost, until the run has ended
#   create    ask for the slices, and wait until they are there
#   install   prepare every host: --setup, then a fresh clone and its packages
#   run       start the run on every host, or join the one that runs there; ends with its status
#   stop      let the run save and end
#   delete    give the slices back
#
# Flags
#   --name=NAME           of the queued resource and of its slices
#   --zone=ZONE           us-west4-a, for one
#   --project=PROJECT     (gcloud's own)
#   --accelerator=TYPE    Cloud TPU's name of a slice: v5litepod-16, v6e-8, v5p-128, …
#   --slices=N            slices of that type (1)
#   --spot                cheaper, and may be taken away at any time
#   --reserved            out of a reservation; with neither, on demand
#   --repo=URL            what the hosts clone (this repository's origin)
#   --revision=COMMIT     of it; has to be pushed (this repository's HEAD)
#   --bucket=NAME         a bucket with a hierarchical namespace that every host mounts at /mnt/shared by GCS FUSE
#   --setup=COMMAND       on every host before the install; without --bucket it mounts the shared folder, for one:
#                         'sudo mkdir -p /mnt/shared && sudo mount 10.0.0.2:/share /mnt/shared'
#   --restarts=N          in a row, not counting those before a start that lasted an hour (10)
#   --delete              babysit gives the slices back when the run has ended, well or badly
#   --poll=SECONDS        between looks at the queue (30)
#   --dry_run             print every command, run none
#
# babysit ends with the run's status (of several hosts, the first's that failed): 0 when it is done. On 75, when the run
# was asked to stop, 76, when it lost a host or a step, and 134, when a library aborted it, it starts it again. Where it
# failed because slices were lost, it asks for them again first. Ctrl-C leaves the run alone: the same command joins it.
# --workdir and the data are on a path that every host sees: under /mnt/shared with --bucket, else a Filestore share, for
# one. gs:// itself is not understood.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source-path=SCRIPTDIR/..
source launch/slices.sh

name='' zone='' project='' accelerator='' slices=1 spot=false reserved=false
repo='' revision='' bucket='' setup='' delete=false poll=30

tpus() { run gcloud compute tpus "$@" "--zone=$zone" ${project:+"--project=$project"}; }

ask() {
  local nodes=("--node-id=$name") tier=()
  if ((slices > 1)); then nodes=("--node-count=$slices" "--node-prefix=$name"); fi
  if $spot; then tier=(--spot); fi
  if $reserved; then tier=(--reserved); fi
  tpus queued-resources create "$name" "${nodes[@]}" "--accelerator-type=$accelerator" "--runtime-version=$runtime" \
    "${tier[@]}"
}

describe() { tpus queued-resources describe "$name" '--format=value(state.state)'; }

give_back() { tpus queued-resources delete "$name" --force --quiet; }

# The queued resource's state; ABSENT where there is none, UNKNOWN where gcloud failed.
state() {
  local answer
  if answer=$(describe 2>&1); then
    tail -n 1 <<<"$answer"
  elif [[ $answer == *NOT_FOUND* ]]; then
    echo ABSENT
  else
    say "$answer"
    echo UNKNOWN
  fi
}

# Waits until the slices are there; asks for them where there are none, or they were lost.
asked=false known=false
obtain() {
  local now
  while true; do
    now=$(state)
    if [[ $now != UNKNOWN ]]; then known=true; elif ! $known; then return 1; fi
    case $now in
      ACTIVE)
        asked=true
        return
        ;;
      ABSENT)
        if $asked; then say "the queued resource $name was deleted by someone" && return 1; fi
        ask || return
        asked=true
        ;;
      UNKNOWN | CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING | DELETING) sleep "$poll" ;;
      *) # SUSPENDING, SUSPENDED, FAILED
        again "the slices were lost" || return
        give_back || return
        asked=false
        ;;
    esac
  done
}

# Whether the slices are still there, after the while that it may take until a loss is known.
still_there() {
  local look
  for look in 1 2 3 4; do
    [[ $(state) == @(ACTIVE|UNKNOWN) ]] || return
    ((look == 4)) || sleep "$poll"
  done
}

# Runs a command line on all hosts at once; the status is that of the first host where it failed.
on_all_hosts() {
  if ((slices > 1)); then
    tpus queued-resources ssh "$name" --node=all --worker=all --batch-size=all "--command=$1"
  else
    tpus tpu-vm ssh "$name" --worker=all --batch-size=all "--command=$1"
  fi
}

# The hosts' own Python is older than 3.11; uv brings one.
install() {
  local packages="python3 -m pip install --quiet --user uv && ~/.local/bin/uv venv --quiet --python=3.11 .venv"
  packages+=" && ~/.local/bin/uv pip install --quiet -c requirements/tested.txt -e '.[tpu]' && touch .venv/installed"
  on_all_hosts "${1:-}${setup:+$setup && }rm -rf mmkp_jax && $(show git clone --quiet "$repo" mmkp_jax) && cd mmkp_jax \
&& $(show git checkout --quiet "$revision") && $packages"
}

# Leaves a host that is installed as it is: a run may be active there.
install_where_missing() { install 'test -e mmkp_jax/.venv/installed && exit; '; }

# A checkpoint becomes valid by the renaming of its folder, which only a hierarchical namespace does at once.
has_folders() {
  local about
  about=$(run gcloud storage buckets describe "gs://$bucket" --format=json) || fail "gcloud does not know gs://$bucket"
  if $dry_run; then echo "$about" && return; fi
  grep -qi '"hierarchical_*namespace"' <<<"$about" \
    || fail "gs://$bucket has no hierarchical namespace: make one by gcloud storage buckets create gs://NAME" \
      "--enable-hierarchical-namespace --uniform-bucket-level-access --location=REGION"
}

start() {
  local line
  line=$(show launch/host.sh run "${EPOCHREALTIME/[.,]/}" .venv/bin/python -m mmkp_jax.main "${program[@]}")
  on_all_hosts "cd mmkp_jax && ${bucket:+launch/host.sh mount $bucket && }$line"
}

babysit() {
  local status began
  while true; do
    obtain || return
    status=0 began=$SECONDS
    { install_where_missing && start; } || status=$?
    lasted=$((SECONDS - began))
    case $status in
      0) return ;;
      2 | 130) return "$status" ;;
      "$AGAIN" | "$LOST" | 134 | 255) # 255: the connection was lost, or the host with all that it knew
        still_there || continue
        again "the run ended with $status" || return "$status"
        ;;
      *)
        still_there || continue
        return "$status"
        ;;
    esac
  done
}

command=${1:-}
case $command in
  babysit | create | install | run | stop | delete) shift ;;
  --help) help ;;
  *) fail "the first word is a command: babysit, create, install, run, stop or delete; see --help" ;;
esac
parse "name zone project accelerator slices repo revision bucket setup restarts poll" "spot reserved delete dry_run" "$@"

need name
need zone
need_number slices 1
need_number restarts 0
need_number poll 0
if $spot && $reserved; then fail "give one of --spot and --reserved"; fi
case $command in babysit | create)
  need accelerator
  slice_of "$accelerator"
  ;;
esac
case $command in babysit | install)
  repo=${repo:-$(git remote get-url origin 2>/dev/null || true)}
  revision=${revision:-$(git rev-parse HEAD 2>/dev/null || true)}
  need repo
  need revision
  ;;
esac
case $command in babysit | run)
  need_program
  [[ $(flag_of_program --workdir) == /* ]] || fail "--workdir is no absolute path: the hosts' own disks go with them"
  [[ -z $bucket || $(flag_of_program --workdir) == /mnt/shared/* ]] \
    || fail "--workdir is not under /mnt/shared, where --bucket is mounted"
  ;;
esac
[[ $bucket =~ ^[a-z0-9._-]*$ ]] || fail "--bucket=$bucket is no bucket's name (without gs://)"
need_command gcloud
if [[ -n $bucket && $command == @(babysit|run) ]]; then has_folders; fi
trap 'say "left; a started run continues: run joins it, stop and delete end it" && exit 130' INT

case $command in
  create)
    if $dry_run; then ask && describe; else obtain; fi
    ;;
  install) install ;;
  run) start ;;
  stop) on_all_hosts 'mmkp_jax/launch/host.sh stop' ;;
  delete) give_back ;;
  babysit)
    status=0
    if $dry_run; then ask && describe && install_where_missing && start; else babysit || status=$?; fi
    if $delete; then give_back || say "NOT given back: $name"; fi
    exit "$status"
    ;;
esac
