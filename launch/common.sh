# shellcheck shell=bash disable=SC2034
# What the launchers share. Sourced, not run; from here on the working directory is the repository's.

((BASH_VERSINFO[0] >= 5)) || { echo "${0##*/}: bash 5 or newer is needed (brew install bash)" >&2; exit 2; }

AGAIN=75 # the program's exit status when it was asked to stop, and is saved: it resumes when it is started again
LOST=76  # when it lost a host, a worker or a step; 134 where a library aborted it
dry_run=false
program=() # the flags of mmkp_jax.main

launcher=$(cd "$(dirname "$0")" && pwd)/${0##*/}
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# One line on what is wrong with the flags.
fail() {
  say "$*"
  exit 2
}

# The comment on top of a launcher is its help.
help() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$launcher"
  exit 0
}

# The command line as a person would type it.
show() {
  local word line=()
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+=("$word")
  done
  echo "${line[*]}"
}

# Runs a command, or with --dry_run prints it.
run() {
  if $dry_run; then show "$@"; else "$@"; fi
}

# Whether it may be started again: --restarts times in a row, after a start of an hour anew. A run that hangs or fails
# again and again must not cost money for ever.
restarts=10 count=0 lasted=0
again() {
  if ((lasted >= 3600)); then count=0; fi
  lasted=0
  if ((++count > restarts)); then say "$1; that was restart $restarts of $restarts in a row, the last" && return 1; fi
  say "$1; again, restart $count of $restarts in a row"
}

# Reads --flag=VALUE and --switch into the variables of their names; what follows -- are the program's flags.
parse() {
  local values=" $1 " switches=" help $2 " flag
  shift 2
  while (($#)); do
    flag=${1%%=*} flag=${flag#--}
    case $1 in
      --) program=("${@:2}") && return ;;
      --*=*) [[ $values == *" $flag "* ]] || fail "unknown flag $1: see --help" ;;
      *) [[ $1 == --* && $switches == *" $flag "* ]] || fail "unknown flag $1, or one without =VALUE: see --help" ;;
    esac
    [[ $flag != help ]] || help
    if [[ $1 == *=* ]]; then printf -v "$flag" %s "${1#*=}"; else printf -v "$flag" true; fi
    shift
  done
}

need_command() { $dry_run || type -P "$1" >/dev/null || fail "$1 is not installed, or not on the path"; }

need() { [[ -n ${!1} ]] || fail "--$1 is not given: see --help"; }

need_number() { [[ ${!1} =~ ^[0-9]+$ && ${!1} -ge $2 ]] || fail "--$1=${!1} is not a whole number from $2"; }

# The value of a flag of the program; empty where it is not given.
flag_of_program() {
  local flag
  for flag in "${program[@]}"; do
    [[ $flag == "$1="* ]] && echo "${flag#*=}" && return
  done
  return 0
}

# A run that is started again has to find its work directory: it is named, and on a path that all hosts see.
need_program() {
  [[ -n $(flag_of_program --config) ]] || fail "give the program's flags after --: -- --config=FILE --workdir=DIR"
  local workdir
  workdir=$(flag_of_program --workdir)
  [[ -n $workdir ]] || fail "--workdir=DIR is not given: without it a restarted run would begin anew"
  [[ $workdir != *://* ]] || fail "--workdir=$workdir is no path: mount it (Filestore, GCS FUSE) and give the path"
}
