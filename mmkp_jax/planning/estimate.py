"""A roofline estimate from the compiled programs: how long a step takes at best, and the whole experiment."""

import math
from typing import NamedTuple

import jax.numpy as jnp

from mmkp_jax.models.definition import flatten
from mmkp_jax.models.family import Work
from mmkp_jax.models.flops import Flops, step_flops, work_of_slots
from mmkp_jax.models.freezing import split_trained
from mmkp_jax.planning.collectives import Collective, collectives
from mmkp_jax.planning.compiling import Compiled, CompileOutcome
from mmkp_jax.planning.counts import ProgramCounts, count_program
from mmkp_jax.planning.topologies import Topology
from mmkp_jax.planning.workload import Workload
from mmkp_jax.training.batches import image_processor
from mmkp_jax.training.setup import dtype_of


class StepEstimate(NamedTuple):
    """Estimate of a train step that compiled; times in seconds."""

    flops: dict[str, Flops]
    """Operations that the posts of a step need, over all chips; what MFU counts."""
    computed: float
    """Operations that a chip computes, including padding and recomputation."""
    counts: ProgramCounts
    """Counts on one chip, from the compiled program's text."""
    collectives: list[Collective]
    products: float
    """Seconds for the matrix products."""
    memory: float
    """Seconds for the main-memory traffic."""
    links: float
    """Seconds for transfers over links within a slice or machine."""
    network: float
    """Seconds for transfers between slices or machines."""
    posts: float
    """Posts a step."""
    steps: int
    chips: int
    peak: float
    """Peak floating-point operations a second of all chips."""

    @property
    def best(self) -> float:
        """Seconds if products, memory and transfers overlap fully, each at its published rate."""
        return max(self.products, self.memory, self.links, self.network)

    @property
    def worst(self) -> float:
        """Seconds if nothing overlaps, each still at its published rate."""
        return self.products + self.memory + self.links + self.network

    @property
    def mfu(self) -> float:
        """The highest possible MFU."""
        return sum(part.total for part in self.flops.values()) / (self.best * self.peak)

    def hours(self, seconds: float) -> float:
        """Hours for all steps at this many seconds each."""
        return self.steps * seconds / 3600


def estimate_step(workload: Workload, topology: Topology, outcome: CompileOutcome) -> StepEstimate:
    """A roofline of the train step, which must have compiled."""
    config, chip = workload.config, topology.chip
    train = outcome.programs["train"]
    assert isinstance(train, Compiled)
    rows = config.global_batch_size
    chips = _used(outcome)
    share = workload.definition.family.true_share(workload.definition.config)
    counts = count_program(train.program, share)
    sent = collectives(train.program, chips=chips, slices=topology.slices, true_share=share)
    between = sum(each.between_slices for each in sent)
    work = workload.load.work.times(rows)
    in_kernels = _attention(workload, rows) / chips if counts.kernels else 0.0
    computed = counts.flops + in_kernels
    return StepEstimate(
        flops=step_flops(workload.definition, config.freeze, work, features=workload.features),
        computed=computed,
        counts=counts,
        collectives=sent,
        products=_seconds(computed, chip.flops),
        memory=_seconds(counts.bytes, chip.bandwidth),
        links=_seconds(sum(each.bytes for each in sent) - between, chip.link),
        network=_seconds(between, chip.network),
        posts=workload.load.posts * rows,
        steps=workload.load.steps,
        chips=chips,
        peak=chips * chip.flops,
    )


def saved_activations(workload: Workload, outcome: CompileOutcome) -> float:
    """Bytes a chip that layers save for the backward pass, with `config.remat`."""
    config, definition = workload.config, workload.definition
    rows = config.global_batch_size / config.accumulation_steps / outcome.mesh["data"] / outcome.mesh["fsdp"]
    each = jnp.dtype(dtype_of(config, "compute_dtype")).itemsize
    trained, _ = split_trained(definition, definition.shapes(), config.freeze)
    kept = definition.family.saved_by_layers(definition.config, workload.row.slots())
    trains = {stage: any(path.startswith(f"{stage}.") for path in flatten(trained)) for stage in kept}
    return each * rows * sum(numbers for stage, numbers in kept.items() if trains[stage])


def slots_flops(workload: Workload) -> float:
    """Operations of a step over all slots by the formula, padding and recomputation included."""
    config = workload.config
    processor = image_processor(config, workload.definition)
    work = work_of_slots(workload.row, config.global_batch_size, workload.definition.family, processor)
    given = {"remat": config.remat, "features": workload.features}
    return _total(step_flops(workload.definition, config.freeze, work, **given))


def _attention(workload: Workload, rows: int) -> float:
    """Attention operations that kernels compute, over all chips.

    They skip what no token may see. Those of tokamax do so forward only, run forward again in the backward pass (no
    policy can save what they keep), and backward compute the scores again.
    """
    config, work = workload.config, workload.load.work.times(rows)
    needed = _of_attention(workload, work, remat=config.remat).total
    if config.attention != "tokamax":
        return needed
    scores_again = needed - _of_attention(workload, work, remat=None).total  # half of a forward pass
    tokens, family, processor = float(workload.row.tokens), workload.definition.family, workload.definition.processor
    of_slots = processor.work_of_slots(workload.row.slots())
    images = {name: rows * of_slots[name] for name in family.attended_elsewhere}
    if family.attended:
        patches = float(workload.row.images[processor.slots[0]])
        images |= dict.fromkeys(family.attended, rows * patches**2)
    every = work._replace(token_pairs=rows * tokens**2, images=dict(work.images) | images)
    skipped, visited = (_of_attention(workload, each, remat=None).backward for each in (work, every))
    return needed + scores_again - skipped + 5 / 4 * visited


def _of_attention(workload: Workload, work: Work, remat: bool | None) -> Flops:
    """The part of `step_flops` that comes from pairs of tokens and of patches."""
    config = workload.config
    family = workload.definition.family
    images = dict(work.images) | dict.fromkeys((*family.attended, *family.attended_elsewhere), 0.0)
    without = work._replace(token_pairs=0.0, images=images)
    given = {"remat": remat, "features": workload.features}
    with_it, less = (step_flops(workload.definition, config.freeze, each, **given).values() for each in (work, without))
    return Flops(
        sum(part.forward for part in with_it) - sum(part.forward for part in less),
        sum(part.backward for part in with_it) - sum(part.backward for part in less),
    )


def _seconds(amount: float, rate: float) -> float:
    return amount / rate if rate else math.nan


def _total(flops: dict[str, Flops]) -> float:
    return sum(part.total for part in flops.values())


def _used(outcome: CompileOutcome) -> int:
    return math.prod(outcome.mesh.values())
