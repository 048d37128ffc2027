"""What would fit: the largest row of a config that does, and what to change of one that does not. Few compilations."""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

from mmkp_jax.data.forest import RowSize
from mmkp_jax.ops.splash import LANES
from mmkp_jax.planning.compiling import Compiled, Outcome, Refused, compile_config
from mmkp_jax.planning.topologies import Topology
from mmkp_jax.planning.workload import Subject

STEPS = 4
"""Row sizes are tried in quarters of the config's row."""

LARGEST = 4
"""Times the config's row; nothing larger is tried."""

TRIES = 3
"""Compilations that look for the largest row."""


Known = dict[int, Compiled | Refused]
"""Train steps by the size of their rows, in quarters."""


class Change(NamedTuple):
    """What to set, as flags, and how much memory it takes then (bytes a chip)."""

    flags: tuple[str, ...]
    bytes: float


def fits(outcome: Outcome, topology: Topology) -> bool:
    """Whether every program compiled, and has room."""
    return all(
        isinstance(each, Compiled) and outcome.needs(name) <= topology.chip.memory
        for name, each in outcome.programs.items()
    )


def compile_subject(subject: Subject, topology: Topology, *, decoding: bool) -> Outcome:
    """Compiles the train step and, if wanted, prefill, decode and growth of the cache for the longest prompts.

    Raises:
        InputError: see `compile_config`.
    """
    prompt = subject.prompt if decoding else None
    return compile_config(subject.config, subject.published, subject.where, topology, prompt)


def largest_row(subject: Subject, topology: Topology, outcome: Outcome) -> RowSize:
    """The largest row that compiles into memory, of at most `LARGEST` times the config's, which does."""
    best, too_large = STEPS, LARGEST * STEPS + 1
    known: Known = {STEPS: outcome.programs["train"]}
    for _ in range(TRIES):
        quarters = min(max(_guess(known, outcome, topology), best + 1), too_large - 1)
        if quarters <= best:
            break
        tried = compile_subject(
            subject.but(row=dataclasses.asdict(scaled(subject.row, quarters))), topology, decoding=False
        )
        known[quarters] = tried.programs["train"]
        if fits(tried, topology):
            best = quarters
        else:
            too_large = quarters
    return scaled(subject.row, best)


def _guess(known: Known, outcome: Outcome, topology: Topology) -> int:
    """The size at which memory would be full: what grows, grows evenly, or as the two largest known sizes tell."""
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
    """The row with so many quarters of every kind of slot, rounded up to as much of a power of two as it had."""

    def slots(n: int) -> int:
        unit = math.gcd(n, LANES)
        return -(-n * quarters // (STEPS * unit)) * unit

    return RowSize.from_slots({name: slots(n) for name, n in row.slots().items()})


def what_fits(subject: Subject, topology: Topology, outcome: Outcome) -> Change | None:
    """The first of a few changes, each on top of those before it, that fits; None where none does."""
    train = outcome.programs["train"]
    decoding = isinstance(train, Compiled) and train.bytes <= topology.chip.memory  # and so it is that which does not
    for flags, changed in _smaller_evaluation(subject) if decoding else _changes(subject, topology, outcome):
        tried = compile_subject(changed, topology, decoding=decoding)
        if fits(tried, topology):
            return Change(flags, max(map(tried.needs, tried.programs)))
    return None


Changed = tuple[tuple[str, ...], Subject]
"""Flags, and what they make of it."""


def _smaller_evaluation(subject: Subject) -> Iterator[Changed]:
    for answers in (subject.config.eval_batch_size // 2, subject.config.eval_batch_size // 4):
        if answers:
            yield (f"--config.eval_batch_size={answers}",), subject.but(eval_batch_size=answers)


def _changes(subject: Subject, topology: Topology, outcome: Outcome) -> Iterator[Changed]:
    config = subject.config
    flags: list[str] = []

    def with_flags(*more: str, **fields: object) -> Changed:
        nonlocal subject
        flags.extend(f"--config.{each}" for each in more)
        subject = subject.but(**fields)
        return tuple(flags), subject

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
    half = scaled(subject.row, STEPS // 2)
    row = {"tokens": half.tokens, "labels": half.labels, "images": half.images}
    named = {"tokens": half.tokens, **{f"images.{kind}": n for kind, n in half.images.items()}, "labels": half.labels}
    yield with_flags(*(f"row.{name}={n}" for name, n in named.items()), row=row)
