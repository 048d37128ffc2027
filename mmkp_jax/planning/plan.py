"""The body of `plan`: what a workload takes on a topology, as a page or as a line of a table."""

import math

from mmkp_jax.planning.compiling import Compiled
from mmkp_jax.planning.estimate import estimate
from mmkp_jax.planning.search import compile_subject, fits, largest_row, what_fits
from mmkp_jax.planning.text import line, page
from mmkp_jax.planning.topologies import Topology
from mmkp_jax.planning.workload import Subject


def plan(subject: Subject, topology: Topology, price: float | None = None) -> str:
    """The page of a topology."""
    outcome = compile_subject(subject, topology, decoding=True)
    fit = fits(outcome, topology)
    compiled = isinstance(outcome.programs["train"], Compiled)
    return page(
        subject,
        topology,
        outcome,
        estimate(subject, topology, outcome) if compiled else None,
        largest=largest_row(subject, topology, outcome) if fit and math.isfinite(topology.chip.memory) else None,
        change=None if fit else what_fits(subject, topology, outcome),
        price=price,
    )


def plan_line(subject: Subject, topology: Topology, price: float | None = None) -> dict[str, str]:
    """The line of a topology; only the train step is compiled."""
    outcome = compile_subject(subject, topology, decoding=False)
    compiled = isinstance(outcome.programs["train"], Compiled)
    found = estimate(subject, topology, outcome) if compiled else None
    return line(subject.config.model.path.rpartition("/")[2], topology, outcome, found, price)
