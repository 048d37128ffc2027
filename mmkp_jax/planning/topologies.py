"""Machines by name: `v5e:4x4`, `v5p:2x2x4`, `v6e:16x16*2` (two slices), `l4:1`, `h100:8*4` (four machines of eight).

`cpu:8` is this machine as eight devices, to try a mesh with the local compiler alone. It has no rates.

Figures of a chip are its maker's, for dense bfloat16 products. Sources:

TPU: cloud.google.com/tpu/docs/{v5e,v6e,v5p}, "system architecture": peak compute, HBM bandwidth, bidirectional
interconnect a chip (half of it each way here), data center network a pod divided by its chips. Memory is what its
compiler can allocate, as its error for a too large program reports (libtpu 0.0.42): less than the HBM.

GPU: NVIDIA's data sheets of A100 80GB SXM, H100 SXM and H200 SXM: TFLOPS without sparsity, memory, total NVLink (half
of it each way here); between machines, the 400 Gb/s (A100: 200 Gb/s) a GPU of DGX and HGX systems. L4 and GeForce RTX
4090 (NVIDIA's data sheet of the L4, and its white paper on the Ada architecture: bfloat16 products summed in float32):
links are PCIe 4.0 x16, and between machines 100 Gb/s for eight GPUs. Their memory is what CUDA reports, which is less
than 24 GiB.
"""

import math
import re
from typing import NamedTuple

from mmkp_jax.errors import InputError, nearest
from mmkp_jax.models.peaks import PEAK_FLOPS

GiB = 1 << 30

GPU_SHARE = 0.95
"""Share of a GPU's memory that JAX can use; its default is 0.75 (`XLA_PYTHON_CLIENT_MEM_FRACTION`)."""

MACHINE = 8
"""GPUs of a machine, joined by NVLink."""


class Chip(NamedTuple):
    """A kind of accelerator; rates are per second, links one way."""

    name: str
    platform: str
    """The platform's name in JAX."""
    memory: float
    """Bytes that a program can use."""
    flops: float
    """Floating-point operations."""
    bandwidth: float
    """Bytes from and to main memory."""
    link: float
    """Bytes to other chips of the slice or machine."""
    network: float
    """Bytes to other slices or machines."""


class Gpu(NamedTuple):
    """What XLA must know about a GPU that is not present, in addition to `Chip`."""

    device: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    fpus: int
    """Floating-point units of a multiprocessor."""
    clock_ghz: float
    shared_memory: tuple[int, int]
    """Bytes of a multiprocessor, and the most that one block can use."""
    l2_cache: int
    memory: int
    """Total bytes."""


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("cpu", "cpu", math.inf, *[0.0] * 4),
        Chip("v5e", "tpu", 15.75 * GiB, PEAK_FLOPS["TPU v5 lite"], 819e9, 200e9, 3.1e9),
        Chip("v6e", "tpu", 31.25 * GiB, PEAK_FLOPS["TPU v6 lite"], 1638e9, 400e9, 12.5e9),
        Chip("v5p", "tpu", 95.74 * GiB, PEAK_FLOPS["TPU v5"], 2765e9, 600e9, 6.25e9),
        Chip("l4", "gpu", GPU_SHARE * 22.03 * GiB, PEAK_FLOPS["NVIDIA L4"], 300e9, 32e9, 1.6e9),
        Chip("rtx4090", "gpu", GPU_SHARE * 23.64 * GiB, PEAK_FLOPS["NVIDIA GeForce RTX 4090"], 1008e9, 32e9, 1.6e9),
        Chip("a100", "gpu", GPU_SHARE * 85_100_068_864, PEAK_FLOPS["NVIDIA A100-SXM4-80GB"], 2039e9, 300e9, 25e9),
        Chip("h100", "gpu", GPU_SHARE * 84_942_979_072, PEAK_FLOPS["NVIDIA H100 80GB HBM3"], 3352e9, 450e9, 50e9),
        Chip("h200", "gpu", GPU_SHARE * 151_397_597_184, PEAK_FLOPS["NVIDIA H200"], 4800e9, 450e9, 50e9),
    )
}

GPUS = {
    "l4": Gpu("NVIDIA L4", (8, 9), 58, 128, 2.04, (102_400, 101_376), 50_331_648, int(22.03 * GiB)),
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", (8, 9), 128, 128, 2.52, (102_400, 101_376), 75_497_472, int(23.64 * GiB)),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 1.41, (167_936, 166_912), 41_943_040, 85_100_068_864),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 1.98, (233_472, 232_448), 52_428_800, 84_942_979_072),
    "h200": Gpu("NVIDIA H200 141GB HBM3e", (9, 0), 132, 128, 1.98, (233_472, 232_448), 52_428_800, 151_397_597_184),
}


class Topology(NamedTuple):
    """Chips, and how they are connected."""

    name: str
    chip: Chip
    layout: str
    """The chips of a slice, such as 4x4; or the number of a machine's GPUs."""
    slices: int
    """Number of slices, or of machines for GPUs."""

    @property
    def chips(self) -> int:
        """Total number of chips."""
        return self.slices * math.prod(map(int, self.layout.split("x")))


def read_topology(name: str) -> Topology:
    """The topology with this name.

    Raises:
        InputError: the name is not a topology.
    """
    where = f"--topology={name}"
    kind, _, rest = name.partition(":")
    if kind not in CHIPS:
        raise InputError(f"unknown chip {kind!r}{nearest(kind, CHIPS)}", where, f"use one of {', '.join(CHIPS)}")
    chip = CHIPS[kind]
    form = r"\d+x\d+(?:x\d+)?" if chip.platform == "tpu" else r"\d+"
    found = re.fullmatch(rf"({form})(?:\*(\d+))?", rest)
    example = _tpu_example(kind) if chip.platform == "tpu" else f"{kind}:8, or {kind}:8*2 for two machines"
    if not found or "0" in (found[1][0], (found[2] or "1")[0]):
        raise InputError(f"{rest!r} is not a layout of its chips", where, f"write it as {example}")
    topology = Topology(name, chip, found[1], int(found[2] or 1))
    if chip.platform == "gpu" and int(topology.layout) > MACHINE:
        raise InputError(f"a machine has at most {MACHINE} GPUs", where, f"write it as {example}")
    return topology


def _tpu_example(kind: str) -> str:
    layout = "2x2x4" if kind == "v5p" else "4x4"
    return f"{kind}:{layout}, or {kind}:{layout}*2 for two slices"


def gpu_description(kind: str) -> str:
    """A GPU as XLA's text, a GpuTargetConfigProto."""
    gpu = GPUS[kind]
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {gpu.shared_memory[0]}
  shared_memory_per_block_optin: {gpu.shared_memory[1]}
  threads_per_core_limit: 2048
  core_count: {gpu.multiprocessors}
  fpus_per_core: {gpu.fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {CHIPS[kind].bandwidth:.0f}
  l2_cache_size: {gpu.l2_cache}
  clock_rate_ghz: {gpu.clock_ghz}
  device_memory_size: {gpu.memory}
  cuda_compute_capability {{ major: {gpu.compute_capability[0]} minor: {gpu.compute_capability[1]} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.device}"
"""
