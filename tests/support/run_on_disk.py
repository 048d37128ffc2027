"""A work directory with a checkpoint, as the loop leaves it, in no time: the base's numbers, moved at random."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from configs import dyncot
from mmkp_jax.families.qwen2_5_vl.config import Qwen2_5_VLConfig
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.save import save_params
from mmkp_jax.models.definition import Params, random_params
from mmkp_jax.models.digest import digests_of
from mmkp_jax.pocket.model import preprocessor_json
from mmkp_jax.training.checkpoint import BASE, Checkpoints
from mmkp_jax.training.setup import load_state, plan_training
from tests.support.tiny import hf_config_dict, write_tokenizer

STEP = 7
FROZEN = ("visual.patch_embed", "visual.blocks")


def write_base(
    path: Path, config: Qwen2_5_VLConfig, dtype: str = "bfloat16", max_shard_bytes: int = 10**9, nested: bool = False
) -> Path:
    """A base folder of random numbers, with all that a published one has."""
    published = hf_config_dict(config, nested)
    numbers = random_params(define(published), seed=1)
    save_params(numbers, published, path, jnp.dtype(dtype), max_shard_bytes)
    write_tokenizer(path)
    (path / "preprocessor_config.json").write_text(json.dumps(preprocessor_json()))
    (path / "generation_config.json").write_text('{"do_sample": true, "repetition_penalty": 1.05}')
    (path / "README.md").write_text("---\nlicense: apache-2.0\n---\nThe base's own card.\n")
    (path / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004\n")
    return path


def write_run(
    workdir: Path, base: Path, dataset: Path | str = "", freeze: tuple[str, ...] = FROZEN, whole: bool = False, **fields
) -> Params:
    """A work directory whose checkpoint's trained parameters are a little off the base's; returns them.

    `whole` writes the frozen ones too, as earlier versions did.
    """
    config = dyncot.get_config()
    config.update(make="", freeze=freeze, total_steps=10, num_epochs=0, warmup_steps=2, **fields)
    config.model.path, config.data.path = str(base), str(dataset)
    folder = open_folder(str(base))
    plan = plan_training(config, folder.config)
    state = load_state(plan, folder)
    random = np.random.default_rng(0)
    moved = [
        leaf + 0.01 * random.standard_normal(leaf.shape, np.float32) for leaf in jax.tree.leaves(state["trainable"])
    ]
    state["trainable"] = jax.tree.map(
        jax.device_put,
        jax.tree.unflatten(jax.tree.structure(state["trainable"]), moved),
        jax.tree.map(lambda leaf: leaf.sharding, state["trainable"]),
    )
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        frozen = {} if whole else {BASE: digests_of(state.pop("frozen"))}
        checkpoints.save(STEP, state, frozen)
    return state["trainable"]


def write_predictions_of(workdir: Path, posts: Path) -> None:
    """Predictions of a step that was evaluated: right for every other post."""
    rows = [json.loads(line) for line in posts.read_text(encoding="utf-8").splitlines()]
    folder = workdir / "predictions"
    folder.mkdir()
    lines = [
        {"id": row["id"], "keyphrases": row["keyphrases"], "predicted": row["keyphrases"] if n % 2 else []}
        for n, row in enumerate(rows)
    ]
    (folder / f"test-{STEP}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
