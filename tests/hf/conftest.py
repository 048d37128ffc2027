"""A run on a small pocket's data, exported once for all tests of this folder."""

import jax.numpy as jnp
import pytest
from safetensors.numpy import load_file, save_file

from mmkp_jax.export import main
from tests.support.run_on_disk import write_predictions_of, write_run
from tests.support.small_pocket import small_pocket


@pytest.fixture(scope="session")
def exported_pocket(tmp_path_factory):
    """(work directory, export) of a run that began with pocket's model in bf16."""
    root = tmp_path_factory.mktemp("exported")
    pocket = small_pocket(root)
    weights = pocket / "model" / "model.safetensors"
    save_file(
        {name: array.astype(jnp.bfloat16) for name, array in load_file(weights).items()}, weights, {"format": "pt"}
    )
    limits = {"images": {"min_pixels": 3136, "max_pixels": 12544}, "max_text_tokens": 96}
    fields = {"compute_dtype": "float32", "frozen_dtype": "float32", "eval_batch_size": 6, "answer_tokens": 24}
    write_run(root / "run", pocket / "model", pocket / "dataset", data=limits, **fields)
    write_predictions_of(root / "run", pocket / "posts" / "test.jsonl")
    assert main([f"--workdir={root / 'run'}", f"--out={root / 'out'}"]) == 0
    return root / "run", root / "out"
