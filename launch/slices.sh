# shellcheck shell=bash disable=SC2034
# TPU slices by Cloud TPU's names. A unit of a v5litepod or v6e name is a chip, a unit of a v5p name half a chip.

# type, topology, chips, chips a host
SLICES="
v5litepod-1    1x1      1  1
v5litepod-4    2x2      4  4
v5litepod-8    2x4      8  8
v5litepod-16   4x4     16  4
v5litepod-32   4x8     32  4
v5litepod-64   8x8     64  4
v5litepod-128  8x16   128  4
v5litepod-256  16x16  256  4
v6e-1          1x1      1  1
v6e-4          2x2      4  4
v6e-8          2x4      8  8
v6e-16         4x4     16  4
v6e-32         4x8     32  4
v6e-64         8x8     64  4
v6e-128        8x16   128  4
v6e-256        16x16  256  4
v5p-8          2x2x1    4  4
v5p-16         2x2x2    8  4
v5p-32         2x2x4   16  4
v5p-64         2x4x4   32  4
v5p-128        4x4x4   64  4
v5p-256        4x4x8  128  4
v5p-512        4x8x8  256  4
"

# Sets topology, chips_per_host and hosts of a type; runtime, Cloud TPU's software; node, GKE's label.
slice_of() {
  local type chips
  while read -r type topology chips chips_per_host; do
    [[ $type == "$1" ]] || continue
    hosts=$((chips / chips_per_host))
    case $type in
      v5litepod-*) runtime=v2-alpha-tpuv5-lite node=tpu-v5-lite-podslice ;;
      v6e-*) runtime=v2-alpha-tpuv6e node=tpu-v6e-slice ;;
      v5p-*) runtime=v2-alpha-tpuv5 node=tpu-v5p-slice ;;
    esac
    return
  done <<<"$SLICES"
  fail "--accelerator=$1 is none of $(awk 'NF { printf "%s%s", sep, $1; sep = ", " }' <<<"$SLICES")"
}
