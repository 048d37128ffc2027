"""Counts of a compiled program on one chip: floating-point operations of its products, and bytes of main memory."""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mmkp_jax.planning.hlo import Array, Computation, Execution, Instruction, Program

KERNELS = ("tpu_custom_call", "__gpu$xla.gpu.triton", "mosaic_gpu_v2")
"""The calls of hand-written kernels, which the compiler cannot analyse."""

LIBRARY = 'custom_call_target="__cublas$'
"""In the call of a library's product: the first of its results, its workspace the second."""

PLUMBING = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("while", "conditional", "call", "iota", "async-start", "async-update", "async-done", "optimization-barrier"),
}
"""Instructions that move no data themselves."""


class ProgramCounts(NamedTuple):
    """Counts for one run of a program on one chip."""

    flops: float
    """Operations of matrix products, including padding and recomputation, but not those inside kernels."""
    bytes: float
    """Bytes read from and written to main memory."""
    kernels: int
    """Calls of hand-written kernels."""


def count_program(program: Program, true_share: float) -> ProgramCounts:
    """Counts a program's operations and bytes.

    Args:
        true_share: how often a conditional is true: the share of the vision tower's layers that see whole images.
    """
    flops = memory = kernels = 0.0
    for execution in program.executions(true_share):
        flops += execution.times * _flops(execution)
        memory += execution.times * _bytes(program, execution)
        kernels += execution.times * any(f'"{kernel}"' in execution.instruction.attributes for kernel in KERNELS)
    return ProgramCounts(flops, memory, round(kernels))


def _flops(execution: Execution) -> float:
    instruction = execution.instruction
    if instruction.opcode == "dot":
        left = execution.computation.operand_arrays(instruction)[0]
        dims = _numbers(instruction.attributes, r"lhs_contracting_dims=\{([\d,]*)\}")
        return 2.0 * math.prod(instruction.arrays[0].shape) * math.prod(left.shape[dim] for dim in dims)
    if LIBRARY in instruction.attributes:
        left = execution.computation.operand_arrays(instruction)[0]
        dims = _numbers(instruction.attributes, r'"lhs_contracting_dimensions":\[([\d",]*)\]')
        return 2.0 * math.prod(instruction.arrays[0].shape) * math.prod(left.shape[dim] for dim in dims)
    if instruction.opcode == "convolution":
        return _convolution(instruction, *execution.computation.operand_arrays(instruction)[:2])
    return 0.0


def _convolution(instruction: Instruction, image: Array, kernel: Array) -> float:
    """Operations of a convolution, which is how the TPU compiler writes a product; padding is not counted.

    The compiler turns batch axes into spatial axes, with strides and dilations under which one position of the kernel
    meets the image; so positions are counted as XLA's own cost analysis counts them.
    """
    labels, out_labels = re.search(r"dim_labels=(\w+_\w+)->(\w+)", instruction.attributes).groups()
    image_labels, kernel_labels = labels.split("_")
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    spatial = sorted(each for each in kernel_labels if each.isdigit())
    positions = 1
    for axis in spatial:
        arrays = ((image, image_labels), (kernel, kernel_labels), (instruction.arrays[0], out_labels))
        sizes = [array.shape[names.index(axis)] for array, names in arrays]
        positions *= _positions(*sizes, **_window(window[1] if window else "", int(axis)))
    batch = instruction.arrays[0].shape[out_labels.index("b")]
    features = instruction.arrays[0].shape[out_labels.index("f")]
    depth = kernel.shape[kernel_labels.index("i")]  # of a group, where features are grouped
    groups = _numbers(instruction.attributes, r"batch_group_count=(\d+)") or [1]
    return 2.0 * batch * features * depth * positions / groups[0]


def _window(text: str, axis: int) -> dict[str, int]:
    """Stride, padding before and dilations of one spatial axis."""

    def of(name: str, default: int) -> int:
        found = re.search(rf"\b{name}=([\dx_-]+)", text)
        return int(found[1].split("x")[axis].split("_")[0]) if found else default

    return {
        "stride": of("stride", 1),
        "before": of("pad", 0),
        "spread": of("lhs_dilate", 1),
        "gap": of("rhs_dilate", 1),
    }


def _positions(image: int, kernel: int, out: int, *, stride: int, before: int, spread: int, gap: int) -> int:
    """How many (output, kernel) positions along an axis fall on an element of the image."""
    at = np.arange(out)[:, None] * stride - before + np.arange(kernel) * gap
    return int(np.count_nonzero((at >= 0) & (at <= (image - 1) * spread) & (at % spread == 0)))


def _bytes(program: Program, execution: Execution) -> float:
    instruction, computation = execution.instruction, execution.computation
    if execution.fused or instruction.opcode in PLUMBING or instruction.opcode.endswith("-done"):
        return 0.0
    operands = [computation.instructions[name] for name in instruction.operands]
    if instruction.opcode in ("copy-start", "slice-start"):  # the result and its source
        to = instruction.arrays[0]
        return to.bytes * (to.in_main_memory + any(_stored(each.arrays) for each in operands))
    if instruction.opcode == "fusion":
        inner = program.computations[re.search(r"calls=%?([\w.-]+)", instruction.attributes)[1]]
        return _fusion_bytes(instruction, operands, inner)
    written = _stored(instruction.arrays[:1] if LIBRARY in instruction.attributes else instruction.arrays)
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):  # reads as much as it returns
        return 2 * written
    if instruction.opcode == "dynamic-update-slice":  # in place
        return 2 * _stored(operands[1].arrays)
    return written + sum(_stored(each.arrays) for each in operands)


def _fusion_bytes(fusion: Instruction, operands: list[Instruction], inner: Computation) -> float:
    """Bytes of a fusion: the parts of operands that it reads, and the parts of results that it changes."""
    total = 0.0
    users: dict[str, list[Instruction]] = {}
    for each in inner.instructions.values():
        for name in each.operands:
            users.setdefault(name, []).append(each)
    parameters = [each for each in inner.instructions.values() if each.opcode == "parameter"]
    for parameter in parameters:
        operand = operands[int(parameter.arguments)]
        seen = _seen(parameter.name, users, inner)
        whole = _stored(operand.arrays)
        total += whole if seen is None else min(whole, seen)
    root = inner.instructions[inner.root]
    results = [inner.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(results) != len(fusion.arrays):
        return total + _stored(fusion.arrays)
    for array, result in zip(fusion.arrays, results, strict=True):
        result = _behind_bitcasts(result, inner)
        if result.opcode == "dynamic-update-slice":
            array = array._replace(shape=inner.instructions[result.operands[1]].arrays[0].shape)
        total += _stored([array])
    return total


def _seen(name: str, users: dict[str, list[Instruction]], inner: Computation) -> float | None:
    """Bytes that are read of a value whose users all take slices of it; None if one user reads all of it."""
    total = 0.0
    for user in users.get(name, []):
        if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
            total += sum(array.bytes for array in user.arrays)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            continue
        elif user.opcode == "bitcast":
            further = _seen(user.name, users, inner)
            if further is None:
                return None
            total += further
        else:
            return None
    return total


def _behind_bitcasts(instruction: Instruction, inner: Computation) -> Instruction:
    while instruction.opcode == "bitcast":
        instruction = inner.instructions[instruction.operands[0]]
    return instruction


def _stored(arrays: Iterable[Array]) -> float:
    return sum(array.bytes for array in arrays if array.in_main_memory)


def _numbers(text: str, pattern: str) -> list[int]:
    found = re.search(pattern, text)
    return [int(each.strip('"')) for each in found[1].split(",") if each] if found else []
