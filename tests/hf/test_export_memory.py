"""Exporting the 3B takes little more memory than its arrays, and gives the bytes that were loaded."""

import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmkp_jax.pocket.model import preprocessor_json
from tests.hf import test_load_memory
from tests.hf.test_load_memory import LARGEST_BYTES

folder_of_3b = test_load_memory.folder_of_3b

EXPORT = """
import json, resource, sys
from pathlib import Path
import jax, jax.numpy as jnp
from mmkp_jax.hf.export import export_folder
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.models.definition import define
from mmkp_jax.optim import FROZEN_BY_DEFAULT, split_params

folder = open_folder(sys.argv[1])
target = jax.tree.map(
    lambda struct: jax.ShapeDtypeStruct(struct.shape, jnp.bfloat16), define(folder.config).shapes()
)
params = load_params(folder, target)
counts = export_folder(
    *split_params(params, FROZEN_BY_DEFAULT), folder, Path(sys.argv[2]), pixels=(3136, 451584), card=""
)
print(json.dumps({
    "arrays": sum(array.nbytes for array in jax.tree.leaves(params)),
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "trained": counts.trained,
}))
"""


@pytest.mark.slow
def test_exporting_3b_takes_twice_its_largest_tensor_beside_the_arrays(folder_of_3b, tmp_path):
    path, _ = folder_of_3b
    free = shutil.disk_usage(tmp_path).free
    assert free > 9 * 10**9, f"this test writes 7.5 GB more to {tmp_path}, which has {free / 1e9:.1f} GB free, not 9"
    (path / "preprocessor_config.json").write_text(json.dumps(preprocessor_json()))
    out = tmp_path / "out"
    try:
        done = subprocess.run(
            [sys.executable, "-c", EXPORT, str(path), str(out)],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        files = [file.name for file in path.glob("*.safetensors*")]
        assert len(files) >= 3 and filecmp.cmpfiles(path, out, files, shallow=False) == (files, [], [])
    finally:
        shutil.rmtree(out, ignore_errors=True)
    beside = said["peak"] - said["arrays"]
    print(f"arrays {said['arrays'] / 1e9:.2f} GB, beside them {beside / 1e9:.2f} GB")
    assert said["trained"] == 824 - 12 * 32 - 1
    assert beside <= 2 * LARGEST_BYTES
