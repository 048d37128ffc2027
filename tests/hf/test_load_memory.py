"""Loading the 3B takes little more memory than its arrays."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.hf.names import NAMES, published_tensors
from mmkp_jax.hf.save import Pending, save_tensors
from mmkp_jax.models.definition import define, flatten
from mmkp_jax.models.qwen2_5_vl_config import QWEN2_5_VL_3B
from tests.tiny import hf_config_dict, write_tokenizer

BFLOAT16 = jnp.dtype(jnp.bfloat16)
LARGEST_BYTES = 151_936 * 2048 * BFLOAT16.itemsize

LOAD = """
import json, resource, sys
import jax, jax.numpy as jnp
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.models.definition import define

folder = open_folder(sys.argv[1])
target = jax.tree.map(
    lambda struct: jax.ShapeDtypeStruct(struct.shape, jnp.bfloat16), define(folder.config).shapes()
)
params = load_params(folder, target)
jax.block_until_ready(params)
print(json.dumps({
    "arrays": sum(array.nbytes for array in jax.tree.leaves(params)),
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "last_row": params["decoder"]["embedding"][-1, :8].tolist(),
}))
"""


@pytest.fixture
def folder_of_3b(tmp_path):
    """The published shapes in bfloat16, in files like the published ones; removed after the test."""
    free = shutil.disk_usage(tmp_path).free
    assert free > 10 * 10**9, f"this test writes 7.5 GB to {tmp_path}, which has {free / 1e9:.1f} GB free, not 10"
    published = hf_config_dict(QWEN2_5_VL_3B)
    block = np.random.default_rng(0).standard_normal(1_000_003, np.float32).astype(BFLOAT16)
    shapes = {path: struct.shape for path, struct in flatten(define(published).shapes()).items()}
    parts = published_tensors(shapes, NAMES["qwen2_5_vl"]).values()
    tensors = [
        Pending(part.name, part.shape, BFLOAT16, lambda shape=part.shape: np.resize(block, shape))
        for of_path in parts
        for part in of_path
    ]
    path = tmp_path / "3b"
    try:
        save_tensors(tensors, published, path)
        write_tokenizer(path)
        yield path, np.resize(block, shapes["decoder.embedding"])[-1, :8]
    finally:
        shutil.rmtree(path)


@pytest.mark.slow
def test_loading_3b_takes_twice_its_largest_tensor_beside_the_arrays(folder_of_3b):
    path, last_row = folder_of_3b
    assert len(list(path.glob("*.safetensors"))) >= 2
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(path)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["arrays"] == 2 * 3_754_622_976
    assert said["last_row"] == last_row.tolist()
    beside = said["peak"] - said["arrays"]
    print(f"arrays {said['arrays'] / 1e9:.2f} GB, beside them {beside / 1e9:.2f} GB")
    assert beside <= 2 * LARGEST_BYTES
