"""What fits in memory: the largest row of a config, and changes for a config that does not fit; few compilations."""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

from mmkp_jax.data.forest import RowSize
from mmkp_jax.ops.splash import LANES
from mmkp_jax.planning.compiling import Compiled, CompileOutcome, NotCompiled, compile_config
from mmkp_jax.planning.topologies import Topology
from mmkp_jax.planning.workload import Workload

STEPS = 4
"""Row sizes are tried in steps of this fraction (a quarter) of the config's row."""

MAX_ROW_SCALE = 4
"""The largest row that is tried, as a multiple of the config's row."""

TRIES = 3
"""Most compilations in the search for the largest row."""


ProgramsBySize = dict[int, Compiled | NotCompiled]
"""Compiled train steps by the size of their rows, in quarters of the config's row."""


class Change(NamedTuple):
    """Flags to set, and the memory that the config then takes (bytes a chip)."""

    flags: tuple[str, ...]
    bytes: float


def fits(outcome: CompileOutcome, topology: Topology) -> bool:
    """Whether every program compiled and fits in memory."""
    return all(
        isinstance(each, Compiled) and outcome.needs(name) <= topology.chip.memory
        for name, each in outcome.programs.items()
    )


def compile_workload(workload: Workload, topology: Topology, *, decoding: bool) -> CompileOutcome:
    """Compiles the train step and, with `decoding`, prefill, decode and growth of the cache for the longest prompts.

    Raises:
        InputError: see `compile_config`.
    """
    prompt = workload.prompt if decoding else None
    return compile_config(workload.config, workload.published, workload.where, topology, prompt)


def largest_row(workload: Workload, topology: Topology, outcome: CompileOutcome) -> RowSize:
    """The largest row that fits in memory, at most `MAX_ROW_SCALE` times the config's, which must fit."""
    best, too_large = STEPS, MAX_ROW_SCALE * STEPS + 1
    known: ProgramsBySize = {STEPS: outcome.programs["train"]}
    for _ in range(TRIES):
        quarters = min(max(_guess(known, outcome, topology), best + 1), too_large - 1)
        if quarters <= best:
            break
        tried = compile_workload(
            workload.with_config(row=dataclasses.asdict(scaled(workload.row, quarters))), topology, decoding=False
        )
        known[quarters] = tried.programs["train"]
        if fits(tried, topology):
            best = quarters
        else:
            too_large = quarters
    return scaled(workload.row, best)


def _guess(known: ProgramsBySize, outcome: CompileOutcome, topology: Topology) -> int:
    """The size at which memory would be full, by linear growth from the two largest known sizes (or the one)."""
    measured = sorted((size, each.bytes) for size, each in known.items() if isinstance(each, Compiled))
    fixed = sum(outcome.state.values()) + outcome.state["trainable"]  # with the gradients
    size, full = measured[-1]
    if len(measured) > 1:
        before, less = measured[-2]
        slope = (full - less) / (size - before)
    else:
        slope = (full - fixed) / size
    guess = math.floor(size + (topology.chip.memory - full) / max(slope, 1.0))
    refused = [each for each, program in known.items() if not isinstance(program, Compiled)]
    return min(guess, (size + min(refused)) // 2) if refused else guess


def scaled(row: RowSize, quarters: int) -> RowSize:
    """The row scaled to `quarters` quarters; each kind of slot stays a multiple of the same power of two."""

    def slots(n: int) -> int:
        unit = math.gcd(n, LANES)
        return -(-n * quarters // (STEPS * unit)) * unit

    size = RowSize.from_slots({name: slots(n) for name, n in row.slots().items()})
    return dataclasses.replace(size, tree_tokens=row.tree_tokens)


def what_fits(workload: Workload, topology: Topology, outcome: CompileOutcome) -> Change | None:
    """The first of a few changes, each on top of those before it, that fits; None if none does."""
    train = outcome.programs["train"]
    decoding = (
        isinstance(train, Compiled) and train.bytes <= topology.chip.memory
    )  # so it is decoding that does not fit
    for flags, changed in _smaller_evaluation(workload) if decoding else _changes(workload, topology, outcome):
        tried = compile_workload(changed, topology, decoding=decoding)
        if fits(tried, topology):
            return Change(flags, max(map(tried.needs, tried.programs)))
    return None


ChangedWorkload = tuple[tuple[str, ...], Workload]
"""Flags, and the workload with these flags."""


def _smaller_evaluation(workload: Workload) -> Iterator[ChangedWorkload]:
    for answers in (workload.config.eval_batch_size // 2, workload.config.eval_batch_size // 4):
        if answers:
            yield (f"--config.eval_batch_size={answers}",), workload.with_config(eval_batch_size=answers)


def _changes(workload: Workload, topology: Topology, outcome: CompileOutcome) -> Iterator[ChangedWorkload]:
    config = workload.config
    flags: list[str] = []

    def with_flags(*more: str, **fields: object) -> ChangedWorkload:
        nonlocal workload
        flags.extend(f"--config.{each}" for each in more)
        workload = workload.with_config(**fields)
        return tuple(flags), workload

    if not config.remat:
        yield with_flags("remat=True", remat=True)
    micro_batches = config.global_batch_size // (outcome.mesh["data"] * outcome.mesh["fsdp"])
    if micro_batches > config.accumulation_steps:
        yield with_flags(f"accumulation_steps={micro_batches}", accumulation_steps=micro_batches)
    if config.mesh.data > topology.slices:
        mesh = {"data": topology.slices, "fsdp": -1}
        yield with_flags(*(f"mesh.{axis}={size}" for axis, size in mesh.items()), mesh=mesh)
    if config.moments_dtype == "float32":
        yield with_flags("moments_dtype=bfloat16", moments_dtype="bfloat16")
    if config.moments_memory == "device" and topology.chip.platform == "tpu":
        yield with_flags("moments_memory=host", moments_memory="host")
    half = scaled(workload.row, STEPS // 2)
    row = {"tokens": half.tokens, "labels": half.labels, "images": half.images}
    named = {"tokens": half.tokens, **{f"images.{kind}": n for kind, n in half.images.items()}, "labels": half.labels}
    yield with_flags(*(f"row.{name}={n}" for name, n in named.items()), row=row)
