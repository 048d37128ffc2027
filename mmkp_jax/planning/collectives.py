"""What a compiled program's chips send each other: kind by kind, in bytes a chip, and over which wires."""

import math
import re
from typing import NamedTuple

import numpy as np

from mmkp_jax.planning.hlo import Program, Run

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """Of one kind, over all that a program runs."""

    kind: str
    times: float
    bytes: float
    """That a chip sends, and receives, where rings or trees are used as they are best."""
    between_slices: float
    """Of these bytes, those of groups that reach over more than one slice (of GPUs: machine)."""


def collectives(program: Program, *, chips: int, slices: int, true_share: float) -> list[Collective]:
    """By kind, those that run; the kinds that do not are left out."""
    found = {kind: Collective(kind, 0.0, 0.0, 0.0) for kind in KINDS}
    seen = set()
    for run in program.runs(true_share):
        opcode = run.instruction.opcode.removesuffix("-start")
        if opcode not in KINDS:
            continue
        channel = re.search(r"channel_id=(\d+)", run.instruction.attributes)
        if channel and channel[1] in seen:  # on TPU one collective is written where it starts, runs along, and ends
            continue
        seen.add(channel[1] if channel else None)
        group = group_of(run.instruction.attributes, chips)
        kind = "reduce-scatter" if "all-reduce-scatter" in run.computation.name else opcode
        sent = run.times * _sent(kind, run, len(group))
        across = sent * (len({chip * slices // chips for chip in group}) > 1)
        was = found[kind]
        found[kind] = Collective(kind, was.times + run.times, was.bytes + sent, was.between_slices + across)
    return [each for each in found.values() if each.times]


def _sent(kind: str, run: Run, members: int) -> float:
    size = sum(array.bytes for array in run.computation.operand_arrays(run.instruction))
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
