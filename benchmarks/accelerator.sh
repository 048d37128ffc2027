#!/usr/bin/env bash
# One short visit to a machine with a GPU (Python 3.12 or newer, JAX 0.11 or newer and PyTorch there, no network):
#
#   benchmarks/accelerator.sh OUT.json [WHEELS] [flags of python -m benchmarks.accelerator]
#
# WHEELS is a folder of what the machine lacks (benchmarks/README.md says which); nothing else is installed, and it goes
# into a temporary folder. `--size=tiny` is a dry run on any machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out="${1:?give a file for the figures, such as OUT.json}"
shift
python="${PYTHON:-python3}"
wheels=""
if (($#)) && [[ $1 != --* ]]; then
  wheels="$1"
  shift
fi

site="$(mktemp -d)"
trap 'rm -rf "$site"' EXIT
if [[ -n $wheels ]]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
fi

export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.95}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"$python" -m benchmarks.accelerator --out="$out" "$@"
