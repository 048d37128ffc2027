"""Loading and exporting the 3B take little more memory than its arrays, and give back the bytes that were there."""

import filecmp
import json
import os
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.families.qwen2_5_vl.names import NAMES
from mmkp_jax.families.registry import define
from mmkp_jax.hf.names import published_tensors
from mmkp_jax.hf.save import Pending, save_tensors
from mmkp_jax.models.definition import flatten
from mmkp_jax.pocket.model import preprocessor_json
from tests.support.paths import ROOT
from tests.support.published import QWEN2_5_VL_3B
from tests.support.tiny import hf_config_dict, write_tokenizer

BFLOAT16 = jnp.dtype(jnp.bfloat16)
LARGEST_BYTES = 151_936 * 2048 * BFLOAT16.itemsize

LOAD_AND_EXPORT = """
import json, resource, sys
from pathlib import Path
import jax, jax.numpy as jnp
from mmkp_jax.hf.export import export_folder
from mmkp_jax.hf.prompt_limits import PromptLimits
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.families.registry import define
from mmkp_jax.models.freezing import split_params
from mmkp_jax.families.qwen2_5_vl.family import FAMILY

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

folder = open_folder(sys.argv[1])
target = jax.tree.map(
    lambda struct: jax.ShapeDtypeStruct(struct.shape, jnp.bfloat16), define(folder.config).shapes()
)
params = jax.block_until_ready(load_params(folder, target))
loaded = peak()
counts = export_folder(
    *split_params(params, FAMILY.paths(["tower"])), folder, Path(sys.argv[2]),
    images={"min_pixels": 3136, "max_pixels": 451584}, limits=PromptLimits(512, 384), card="",
)
print(json.dumps({
    "arrays": sum(array.nbytes for array in jax.tree.leaves(params)),
    "loaded": loaded,
    "exported": peak(),
    "trained": counts.trained,
    "last_row": params["decoder"]["embedding"][-1, :8].tolist(),
}))
"""


@pytest.fixture
def folder_of_3b(tmp_path):
    """The published shapes in bfloat16, in files like the published ones; removed after the test."""
    free = shutil.disk_usage(tmp_path).free
    assert free > 17 * 10**9, f"this test writes 15 GB to {tmp_path}, which has {free / 1e9:.1f} GB free, not 17"
    published = hf_config_dict(QWEN2_5_VL_3B)
    block = np.random.default_rng(0).standard_normal(1_000_003, np.float32).astype(BFLOAT16)
    shapes = {path: struct.shape for path, struct in flatten(define(published).shapes()).items()}
    parts = published_tensors(shapes, NAMES).values()
    tensors = [
        Pending(part.name, part.shape, BFLOAT16, lambda shape=part.shape: np.resize(block, shape))
        for of_path in parts
        for part in of_path
    ]
    path = tmp_path / "3b"
    try:
        save_tensors(tensors, published, path)
        write_tokenizer(path)
        (path / "preprocessor_config.json").write_text(json.dumps(preprocessor_json()))
        yield path, np.resize(block, shapes["decoder.embedding"])[-1, :8]
    finally:
        shutil.rmtree(path)


@pytest.mark.nightly
def test_loading_and_exporting_3b_takes_twice_its_largest_tensor_besides_the_arrays(folder_of_3b, tmp_path):
    path, last_row = folder_of_3b
    out = tmp_path / "out"
    try:
        done = subprocess.run(
            [sys.executable, "-c", LOAD_AND_EXPORT, str(path), str(out)],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        files = [file.name for file in path.glob("*.safetensors*")]
        assert len(files) >= 3 and filecmp.cmpfiles(path, out, files, shallow=False) == (files, [], [])
    finally:
        shutil.rmtree(out, ignore_errors=True)
    said = json.loads(done.stdout)
    assert said["arrays"] == 2 * 3_754_622_976
    assert said["last_row"] == last_row.tolist()
    assert said["trained"] == 824 - 12 * 32 - 1
    for moment in ("loaded", "exported"):
        beside = said[moment] - said["arrays"]
        print(f"{moment}: arrays {said['arrays'] / 1e9:.2f} GB, beside them {beside / 1e9:.2f} GB at most")
        assert beside <= 2 * LARGEST_BYTES
