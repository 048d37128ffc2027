#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster, as a JobSet that restarts by itself.
#
#   launch/gke.sh COMMAND --name=NAME [flags] [-- flags of mmkp_jax.main]
#
# Commands
#   babysit    create, and wait for the end: 0 when it is done, 1 when it failed
#   create     hand the JobSet to the cluster
#   manifest   print the JobSet: launch/gke.yaml, filled in
#   delete     end the run, which saves, and remove it
#
# Flags
#   --name=NAME           of the JobSet
#   --accelerator=TYPE    Cloud TPU's name of a slice: v5litepod-16, v6e-16, v5p-128, …
#   --slices=N            slices of that type, a node pool each (1)
#   --image=IMAGE         with this repository installed: launch/Dockerfile
#   --claim=NAME          a ReadWriteMany volume claim, mounted at /mnt/shared (mmkp)
#   --restarts=N          how often the run is started again in all: after a preemption, a lost node, a failure (50)
#   --delete              babysit removes the JobSet when it has ended, well or badly
#   --poll=SECONDS        between looks at the JobSet (30)
#   --dry_run             print every command, run none
#
# Each restart counts, also that of a run that was asked to stop and has saved (status 75): JobSet cannot see how long a
# start lasted. A mistake in the flags (status 2) ends the run. Ctrl-C leaves the run alone. --workdir and the data are under /mnt/shared.
#
# The slices are node pools of the cluster, one each; for two of v5litepod-16, say:
#   gcloud container node-pools create mmkp-0 --cluster=CLUSTER --location=ZONE --node-locations=ZONE \
#     --machine-type=ct5lp-hightpu-4t --tpu-topology=4x4 --num-nodes=4 --spot     # and mmkp-1
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source-path=SCRIPTDIR/..
source launch/slices.sh

name='' accelerator='' slices=1 image='' claim=mmkp restarts=50 delete=false poll=30

# The program's flags as a JSON list, which YAML understands.
json() {
  local flag list=''
  for flag; do
    flag=${flag//\\/\\\\}
    list+=", \"${flag//\"/\\\"}\""
  done
  echo "[${list#, }]"
}

manifest() {
  local text key
  local -A values=(
    [NAME]=$name [SLICES]=$slices [RESTARTS]=$restarts [IMAGE]=$image [CLAIM]=$claim
    [HOSTS]=$hosts [CHIPS]=$chips_per_host [NODE]=$node [TOPOLOGY]=$topology [ARGS]=$(json "${program[@]}")
  )
  text=$(<launch/gke.yaml)
  for key in "${!values[@]}"; do text=${text//"\${$key}"/"${values[$key]}"}; done
  echo "$text"
}

create() {
  if $dry_run; then
    printf "kubectl apply --filename=- <<'EOF'\n%s\nEOF\n" "$(manifest)"
  else
    manifest | kubectl apply --filename=-
  fi
}

look() { run kubectl get jobset "$name" '--output=jsonpath={.status.terminalState}'; }

remove() { run kubectl delete jobset "$name"; }

# Waits for the end; a look that fails is repeated, as the run needs no one to look.
wait_for_end() {
  local ended said=''
  while true; do
    ended=$(look) || ended=''
    case $ended in
      Completed) return 0 ;;
      Failed) say "the run failed: kubectl logs --selector=jobset.sigs.k8s.io/jobset-name=$name" && return 1 ;;
    esac
    [[ -n $said ]] || say "it runs; to see it: kubectl logs --follow job/$name-slice-0"
    said=true
    sleep "$poll"
  done
}

command=${1:-}
case $command in
  babysit | create | manifest | delete) shift ;;
  --help) help ;;
  *) fail "the first word is a command: babysit, create, manifest or delete; see --help" ;;
esac
parse "name accelerator slices image claim restarts poll" "delete dry_run" "$@"

need name
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || fail "--name=$name: lower-case letters, digits and - only"
need_number slices 1
need_number restarts 0
need_number poll 0
if [[ $command != delete ]]; then
  need accelerator
  need image
  slice_of "$accelerator"
  ((slices == 1 || hosts > 1)) || fail "--slices=$slices: GKE joins slices of several hosts only, $accelerator has one"
  need_program
  [[ $(flag_of_program --workdir) == /mnt/shared/* ]] || fail "--workdir is not under /mnt/shared, and would be lost"
fi
[[ $command == manifest ]] || need_command kubectl
trap 'say "left; the run continues until launch/gke.sh delete" && exit 130' INT

case $command in
  manifest) manifest ;;
  create) create ;;
  delete) remove ;;
  babysit)
    status=0
    create
    if $dry_run; then look; else wait_for_end || status=$?; fi
    if $delete; then remove || say "NOT removed: $name"; fi
    exit "$status"
    ;;
esac
