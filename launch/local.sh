#!/usr/bin/env bash
# Trains in several processes on this machine, as on several hosts.
#
#   launch/local.sh --processes=N [flags] -- flags of mmkp_jax.main
#
# Flags
#   --processes=N   on the loopback interface
#   --one_gpu_each  process K sees GPU K alone
#   --port=PORT     where the processes meet (a free one)
#   --restarts=N    in a row, not counting those before a start that lasted an hour (10)
#   --dry_run       print every command, run none
#
# Ends with 0 when the run is done. Where processes end with 75, because one of them was asked to stop, or 76, because a
# step or a worker was lost, all are started again. SIGTERM to this script lets them save, and ends it with 75; Ctrl-C the same, with 130. Any other status of a
# process is passed on.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

processes='' one_gpu_each=false port=''
[[ ${1:-} != --help ]] || help
parse "processes port restarts" "one_gpu_each dry_run" "$@"
need processes
need_number processes 1
need_number restarts 0
need_program
need_command python

# One that nothing listens on, of those that systems do not hand out to connections by themselves.
free_port() {
  python -c '
import random, socket
while True:
    port = random.SystemRandom().randrange(15_000, 32_768)
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)):
            break
print(port)'
}

# Starts all processes; their ids in `started`.
start() {
  local place=$port number
  if [[ -z $place ]]; then if $dry_run; then place=PORT; else place=$(free_port); fi; fi
  started=()
  for ((number = 0; number < processes; number++)); do
    local line=(python -m mmkp_jax.main "${program[@]}")
    line+=("--coordinator=127.0.0.1:$place" "--num_processes=$processes" "--process_id=$number")
    if $one_gpu_each; then line=(env "CUDA_VISIBLE_DEVICES=$number" "${line[@]}"); fi
    if $dry_run; then
      show "${line[@]}"
    else
      "${line[@]}" &
      started+=("$!")
    fi
  done
}

# Waits for all of them. The status is the first that is none of 0, 75 and 76; else the first that is not 0; else 0.
wait_for_end() {
  local id code status=0
  for id in "${started[@]}"; do
    interrupted=true
    while $interrupted; do # a signal to this script ends `wait` too
      interrupted=false code=0
      wait "$id" || code=$?
    done
    if ((code && (status == 0 || (status <= LOST && status >= AGAIN && code != AGAIN && code != LOST)))); then status=$code; fi
  done
  return "$status"
}

asked='' # the status to end with, once this script was asked to stop
stop() {
  asked=$1 interrupted=true
  say "asked to stop: the processes save and end"
  kill -TERM "${started[@]}" 2>/dev/null || true
}
trap 'stop "$AGAIN"' TERM
trap 'stop 130' INT

while true; do
  start
  if $dry_run; then exit; fi
  status=0 began=$SECONDS
  wait_for_end || status=$?
  lasted=$((SECONDS - began))
  ((status == AGAIN || status == LOST)) || exit "$status"
  [[ -z $asked ]] || exit "$asked"
  again "the run ended with $status" || exit "$status"
done
