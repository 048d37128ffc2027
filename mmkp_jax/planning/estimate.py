"""What compiling told, in a person's terms: how long a step takes at best, and what that comes to."""

import math
from typing import NamedTuple

import jax.numpy as jnp

from mmkp_jax.models.definition import flatten
from mmkp_jax.models.flops import Flops, step_flops, work_of_slots
from mmkp_jax.models.freezing import split_params
from mmkp_jax.planning.collectives import Collective, collectives
from mmkp_jax.planning.compiling import Compiled, Outcome
from mmkp_jax.planning.counts import Counts, count
from mmkp_jax.planning.topologies import Topology
from mmkp_jax.planning.workload import Subject
from mmkp_jax.training.setup import dtype_of


class Estimate(NamedTuple):
    """Of a train step that compiles; times in seconds."""

    flops: dict[str, Flops]
    """That the posts of a step need, over all chips; what MFU counts."""
    computed: float
    """By a chip: with padding, and what is computed again."""
    counts: Counts
    """By the compiled program's text, on a chip."""
    collectives: list[Collective]
    products: float
    memory: float
    links: float
    network: float
    posts: float
    """A step."""
    steps: int
    chips: int
    peak: float
    """Floating-point operations a second, of all chips."""

    @property
    def best(self) -> float:
        """Where products, memory and links overlap wholly, each at its published rate."""
        return max(self.products, self.memory, self.links, self.network)

    @property
    def worst(self) -> float:
        """Where nothing overlaps, each still at its published rate."""
        return self.products + self.memory + self.links + self.network

    @property
    def mfu(self) -> float:
        """At best."""
        return sum(part.total for part in self.flops.values()) / (self.best * self.peak)

    def hours(self, seconds: float) -> float:
        """Of all steps at so many seconds each."""
        return self.steps * seconds / 3600


def estimate(subject: Subject, topology: Topology, outcome: Outcome) -> Estimate:
    """A roofline of the train step, which must have compiled."""
    config, chip = subject.config, topology.chip
    train = outcome.programs["train"]
    assert isinstance(train, Compiled)
    rows = config.global_batch_size
    chips = _used(outcome)
    share = subject.definition.family.true_share(subject.definition.config)
    counts = count(train.program, share)
    sent = collectives(train.program, chips=chips, slices=topology.slices, true_share=share)
    between = sum(each.between_slices for each in sent)
    work = subject.load.work.times(rows)
    in_kernels = _attention(subject, rows) / chips if counts.kernels else 0.0
    computed = counts.flops + in_kernels
    return Estimate(
        flops=step_flops(subject.definition, config.freeze, work),
        computed=computed,
        counts=counts,
        collectives=sent,
        products=_seconds(computed, chip.flops),
        memory=_seconds(counts.bytes, chip.bandwidth),
        links=_seconds(sum(each.bytes for each in sent) - between, chip.link),
        network=_seconds(between, chip.network),
        posts=subject.load.posts * rows,
        steps=subject.load.steps,
        chips=chips,
        peak=chips * chip.flops,
    )


def kept_activations(subject: Subject, outcome: Outcome) -> float:
    """Bytes a chip of the layers' inputs that wait for the backward pass, with `config.remat`."""
    config, definition = subject.config, subject.definition
    rows = config.global_batch_size / config.accumulation_steps / outcome.mesh["data"] / outcome.mesh["fsdp"]
    each = jnp.dtype(dtype_of(config, "compute_dtype")).itemsize
    trained, _ = split_params(definition.shapes(), definition.family.paths(config.freeze))
    kept = definition.family.kept(definition.config, subject.row.slots())
    trains = {stage: any(path.startswith(f"{stage}.") for path in flatten(trained)) for stage in kept}
    return each * rows * sum(numbers for stage, numbers in kept.items() if trains[stage])


def slots_flops(subject: Subject) -> float:
    """Of a step over all slots, padding and repetitions included, by the formula; to hold `Counts.flops` against."""
    config = subject.config
    work = work_of_slots(subject.row, config.global_batch_size, subject.definition.processor)
    return _total(step_flops(subject.definition, config.freeze, work, remat=config.remat))


def _attention(subject: Subject, rows: int) -> float:
    """What kernels compute of attention, over all chips: they skip what no token may see."""
    config = subject.config
    work = subject.load.work.times(rows)
    images = dict(work.images) | dict.fromkeys(subject.definition.family.attended, 0.0)
    without = work._replace(token_pairs=0.0, images=images)
    with_it, less = (
        _total(step_flops(subject.definition, config.freeze, each, remat=config.remat)) for each in (work, without)
    )
    return with_it - less


def _seconds(amount: float, rate: float) -> float:
    return amount / rate if rate else math.nan


def _total(flops: dict[str, Flops]) -> float:
    return sum(part.total for part in flops.values())


def _used(outcome: Outcome) -> int:
    return math.prod(outcome.mesh.values())
