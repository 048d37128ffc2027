"""What `plan` says of the step that `steps.py` measures: memory, and seconds at the chip's published rates.

    python -m benchmarks.accelerator.plans --size=tiny|3b --topology=NAME --attention=NAME,NAME --notes=FILE

It compiles ahead of time and needs no device.
"""

import argparse
from pathlib import Path

from benchmarks.accelerator.job import step_job
from benchmarks.accelerator.notes import Notes
from mmkp_jax.errors import InputError
from mmkp_jax.planning.compiling import Compiled
from mmkp_jax.planning.estimate import estimate_step
from mmkp_jax.planning.search import compile_workload
from mmkp_jax.planning.topologies import Topology, read_topology
from mmkp_jax.planning.workload import RowLoad, Workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", required=True)
    parser.add_argument("--topology", required=True)
    parser.add_argument("--attention", required=True)
    parser.add_argument("--notes", type=Path, required=True)
    args = parser.parse_args()
    notes = Notes(args.notes)
    for attention in args.attention.split(","):
        try:
            notes.put(**{attention: planned(args.size, attention, read_topology(args.topology))})
        except InputError as error:
            notes.put(**{attention: {"refused": str(error)}})


def planned(size: str, attention: str, topology: Topology) -> dict[str, float | str]:
    """The plan of a backend's step; `refused` is the compiler's reason, if it does."""
    job = step_job(size, attention)
    rows = job.config.global_batch_size
    load = RowLoad(job.posts / rows, job.work.times(1 / rows), job.config.total_steps, "the rows that are measured")
    workload = Workload(job.config, job.published, "config.json", job.definition, load)
    outcome = compile_workload(workload, topology, decoding=False)
    train = outcome.programs["train"]
    if not isinstance(train, Compiled):
        return {"refused": train.reason}
    step = estimate_step(workload, topology, outcome)
    return {
        "bytes": train.bytes,
        "temporaries": train.temporaries,
        "seconds_at_best": step.best,
        "seconds_at_worst": step.worst,
        "mfu_at_best": step.mfu if step.best and step.peak else float("nan"),
        "computed_flops": step.computed,
        "moved_bytes": step.counts.bytes,
        "compile_seconds": train.seconds,
    }


if __name__ == "__main__":
    main()
