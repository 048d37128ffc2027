"""The body of `plan`: what a workload takes on a topology, as a page or as a row of a table."""

import math

from mmkp_jax.planning.compiling import Compiled
from mmkp_jax.planning.estimate import estimate_step
from mmkp_jax.planning.search import compile_workload, fits, largest_row, what_fits
from mmkp_jax.planning.text import line, page
from mmkp_jax.planning.topologies import Topology
from mmkp_jax.planning.workload import Workload


def plan(workload: Workload, topology: Topology, price: float | None = None) -> str:
    """The full report for one topology."""
    outcome = compile_workload(workload, topology, decoding=True)
    fit = fits(outcome, topology)
    compiled = isinstance(outcome.programs["train"], Compiled)
    return page(
        workload,
        topology,
        outcome,
        estimate_step(workload, topology, outcome) if compiled else None,
        largest=largest_row(workload, topology, outcome) if fit and math.isfinite(topology.chip.memory) else None,
        change=None if fit else what_fits(workload, topology, outcome),
        price=price,
    )


def plan_line(workload: Workload, topology: Topology, price: float | None = None) -> dict[str, str]:
    """The cells of a topology's row; only the train step is compiled."""
    outcome = compile_workload(workload, topology, decoding=False)
    compiled = isinstance(outcome.programs["train"], Compiled)
    found = estimate_step(workload, topology, outcome) if compiled else None
    return line(workload.config.model.path.rpartition("/")[2], topology, outcome, found, price)
