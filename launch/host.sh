#!/usr/bin/env bash
# One host's side of launch/tpu.sh: a run that outlives the connection that it was started from.
#
#   launch/host.sh run ID COMMAND…   start it, or join what runs here already; shows its output, ends with its status
#   launch/host.sh stop              ask what runs here to save and end
#   launch/host.sh mount BUCKET      mount a bucket at /mnt/shared, unless it is there; GCS FUSE is installed if needed
#
# gcloud makes a broken connection again and repeats its command line: the same ID is never started twice.
set -euo pipefail

folder=$HOME/.mmkp_jax
shared=/mnt/shared

install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc host=https://packages.cloud.google.com/apt
  curl --fail --silent --show-error --location "$host/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $host gcsfuse-$(lsb_release --codename --short) main" \
    | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update -qq
  sudo apt-get install -qq gcsfuse
}

case ${1:-} in
  run)
    id=$2
    mkdir -p "$folder"
    exec 9>"$folder/lock" # held for as long as something runs
    if ! flock --nonblock 9; then
      id=$(<"$folder/id")
    elif [[ ! -e $folder/$id.log ]]; then
      echo "$id" >"$folder/id"
      : >"$folder/$id.log"
      # shellcheck disable=SC2016
      setsid bash -c '"${@:2}" >"$1.log" 2>&1 9>&-; echo $? >"$1.status"' host.sh "$folder/$id" "${@:3}" \
        </dev/null >/dev/null 2>&1 &
      echo "$!" >"$folder/pid"
    fi
    exec 9>&-
    tail --lines=+1 --follow --pid="$(<"$folder/pid")" "$folder/$id.log"
    [[ -e $folder/$id.status ]] || exit 255 # the host was lost under it
    exit "$(<"$folder/$id.status")"
    ;;
  mount)
    if mountpoint --quiet "$shared"; then exit; fi
    type -P gcsfuse >/dev/null || install_gcsfuse
    sudo mkdir -p "$shared"
    sudo chown "$(id -u)" "$shared"
    # Nothing of a file's state is kept here: hosts watch each other's run.beat, and read what the first one wrote.
    gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 "$2" "$shared"
    ;;
  stop) pkill -TERM --parent "$(<"$folder/pid")" ;;
  *)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    [[ ${1:-} == --help ]] || exit 2
    ;;
esac
