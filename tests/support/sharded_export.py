"""A program for `test_export_in_training.py`: one of several processes that export a run's base as its step 7, twice.

Arguments: the work directory, the coordinator's address, how many processes, and which one.
"""

import sys
from pathlib import Path

import jax

from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.inference.export_run import RunStep, export_into_run
from mmkp_jax.inference.run_config import run_config
from mmkp_jax.models.sharding import DEFAULT_RULES, make_mesh, param_shardings
from mmkp_jax.runtime.hosts import join


def main(workdir: Path, address: str, count: str, number: str) -> None:
    """Prints how many arrays have parts that this process cannot read."""
    join(address, int(count), int(number))
    config = run_config(workdir)
    base = open_folder(config.model.path)
    definition, mesh = define(base.config), make_mesh({"data": 1, "fsdp": -1, "tensor": 1})
    shardings = param_shardings(definition, mesh, DEFAULT_RULES)
    structs = jax.tree.map(lambda leaf, sharding: leaf.update(sharding=sharding), definition.shapes(), shardings)
    params = load_params(base, structs)
    print("out of reach:", sum(not leaf.is_fully_addressable for leaf in jax.tree.leaves(params)), file=sys.stderr)
    for _ in range(2):
        export_into_run(RunStep(workdir, config, base, 7, params, definition))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
