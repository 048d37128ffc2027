"""What a compiled program does on one chip: floating-point operations of its products, and bytes of main memory."""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mmkp_jax.planning.hlo import Array, Computation, Instruction, Program, Run

KERNEL = "tpu_custom_call"
"""A kernel written by hand, into which the compiler cannot see."""

PLUMBING = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("while", "conditional", "call", "iota", "async-start", "async-update", "async-done", "optimization-barrier"),
}
"""Instructions that move nothing themselves."""


class Counts(NamedTuple):
    """Of one run of a program, on one chip."""

    flops: float
    """Of products, padding and what is computed again included; not those inside kernels."""
    bytes: float
    """Read from and written to main memory."""
    kernels: int
    """Calls of kernels written by hand."""


def count(program: Program, true_share: float) -> Counts:
    """Counts a program.

    Args:
        true_share: how often a conditional is true: of the vision tower's layers, those that see whole pictures.
    """
    flops = memory = kernels = 0.0
    for run in program.runs(true_share):
        flops += run.times * _flops(run)
        memory += run.times * _bytes(program, run)
        kernels += run.times * (f'"{KERNEL}"' in run.instruction.attributes)
    return Counts(flops, memory, round(kernels))


def _flops(run: Run) -> float:
    instruction = run.instruction
    if instruction.opcode == "dot":
        left = run.computation.operand_arrays(instruction)[0]
        dims = _numbers(instruction.attributes, r"lhs_contracting_dims=\{([\d,]*)\}")
        return 2.0 * math.prod(instruction.arrays[0].shape) * math.prod(left.shape[dim] for dim in dims)
    if instruction.opcode == "convolution":
        return _convolution(instruction, *run.computation.operand_arrays(instruction)[:2])
    return 0.0


def _convolution(instruction: Instruction, image: Array, kernel: Array) -> float:
    """Of a convolution, which is how a TPU's compiler writes a product: only what meets a number, not padding.

    The compiler makes spatial axes of batch axes, with strides and dilations under which one place of the kernel meets
    the image; so places are counted as XLA's own cost analysis counts them.
    """
    labels, out_labels = re.search(r"dim_labels=(\w+_\w+)->(\w+)", instruction.attributes).groups()
    image_labels, kernel_labels = labels.split("_")
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    spatial = sorted(each for each in kernel_labels if each.isdigit())
    places = 1
    for axis in spatial:
        arrays = ((image, image_labels), (kernel, kernel_labels), (instruction.arrays[0], out_labels))
        sizes = [array.shape[names.index(axis)] for array, names in arrays]
        places *= _places(*sizes, **_window(window[1] if window else "", int(axis)))
    batch = instruction.arrays[0].shape[out_labels.index("b")]
    features = instruction.arrays[0].shape[out_labels.index("f")]
    depth = kernel.shape[kernel_labels.index("i")]  # of a group, where features are grouped
    groups = _numbers(instruction.attributes, r"batch_group_count=(\d+)") or [1]
    return 2.0 * batch * features * depth * places / groups[0]


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


def _places(image: int, kernel: int, out: int, *, stride: int, before: int, spread: int, gap: int) -> int:
    """How many (output, kernel) places along an axis fall on a number of the image."""
    at = np.arange(out)[:, None] * stride - before + np.arange(kernel) * gap
    return int(np.count_nonzero((at >= 0) & (at <= (image - 1) * spread) & (at % spread == 0)))


def _bytes(program: Program, run: Run) -> float:
    instruction, computation = run.instruction, run.computation
    if run.fused or instruction.opcode in PLUMBING or instruction.opcode.endswith("-done"):
        return 0.0
    operands = [computation.instructions[name] for name in instruction.operands]
    if instruction.opcode in ("copy-start", "slice-start"):  # the result, beside its source
        to = instruction.arrays[0]
        return to.bytes * (to.in_main_memory + any(_stored(each.arrays) for each in operands))
    if instruction.opcode == "fusion":
        inner = program.computations[re.search(r"calls=%?([\w.-]+)", instruction.attributes)[1]]
        return _fusion_bytes(instruction, operands, inner)
    written = _stored(instruction.arrays)
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):  # reads what it gives
        return 2 * written
    if instruction.opcode == "dynamic-update-slice":  # in place
        return 2 * _stored(operands[1].arrays)
    return written + sum(_stored(each.arrays) for each in operands)


def _fusion_bytes(fusion: Instruction, operands: list[Instruction], inner: Computation) -> float:
    """A fusion reads of an operand what it looks at, and writes of a result what it changes."""
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
    """The bytes that are looked at of a value all of whose users take slices of it; None where one takes it whole."""
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
    return [int(each) for each in found[1].split(",") if each] if found else []
