"""Data that a compiled program's chips send each other: by kind, in bytes a chip, and over which links."""

import math
import re
from typing import NamedTuple

import numpy as np

from mmkp_jax.planning.hlo import Execution, Program

COLLECTIVES = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """Collectives of one kind, summed over everything that a program runs."""

    kind: str
    times: float
    bytes: float
    """Bytes that a chip sends, and receives, with the best use of rings or trees."""
    between_slices: float
    """The part of `bytes` in groups that span more than one slice (for GPUs: more than one machine)."""


def collectives(program: Program, *, chips: int, slices: int, true_share: float) -> list[Collective]:
    """The collectives that run, by kind; kinds that do not run are left out."""
    found = {kind: Collective(kind, 0.0, 0.0, 0.0) for kind in COLLECTIVES}
    seen = set()
    for execution in program.executions(true_share):
        opcode = execution.instruction.opcode.removesuffix("-start")
        if opcode not in COLLECTIVES:
            continue
        channel = re.search(r"channel_id=(\d+)", execution.instruction.attributes)
        if channel and channel[1] in seen:  # on TPU one collective is written where it starts, runs and ends
            continue
        seen.add(channel[1] if channel else None)
        group = group_of(execution.instruction.attributes, chips)
        kind = "reduce-scatter" if "all-reduce-scatter" in execution.computation.name else opcode
        sent = execution.times * _sent(kind, execution, len(group))
        across = sent * (len({chip * slices // chips for chip in group}) > 1)
        was = found[kind]
        found[kind] = Collective(kind, was.times + execution.times, was.bytes + sent, was.between_slices + across)
    return [each for each in found.values() if each.times]


def _sent(kind: str, execution: Execution, members: int) -> float:
    size = sum(array.bytes for array in execution.computation.operand_arrays(execution.instruction))
    share = (members - 1) / members
    return (
        size
        * {
            "all-gather": members - 1,
            "reduce-scatter": share,
            "all-reduce": 2 * share,
            "all-to-all": share,
            "collective-permute": 1,
        }[kind]
    )


def group_of(attributes: str, chips: int) -> list[int]:
    """The chips of the first group of a collective, in any of the ways in which XLA writes groups."""
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes):
        return [int(each) for each in pairs.groups()]
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return [int(each) for each in listed[1].split(",")]
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        groups, dims, order = ([int(n) for n in (part or "").split(",") if n] for part in iota.groups())
        chip = np.arange(math.prod(dims)).reshape(dims)
        return (chip.transpose(order) if order else chip).reshape(groups)[0].tolist()
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", attributes):
        axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        over = [list(axes).index(name) for name in re.findall(r"'(\w+)'", mesh[2])]
        chip = np.arange(math.prod(axes.values())).reshape(list(axes.values()))
        first = tuple(slice(None) if axis in over else 0 for axis in range(len(axes)))
        return chip[first].ravel().tolist()
    return list(range(chips))
