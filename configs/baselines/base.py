"""The defaults of a baseline, and its presets: `configs/baselines/cmkp.py:data=mmkp`; without any, pocket."""

from ml_collections import ConfigDict

from mmkp_jax.errors import InputError, nearest
from mmkp_jax.runtime.baseline_fields import BASELINE_FIELDS
from mmkp_jax.runtime.config import default_config

DATA = {"mmkp": "data/mmkp", "mmkp_v2": "data/mmkp_v2", "mmkp_360k": "data/mmkp_360k"}
"""Prepared datasets by preset."""


def get_config(strategy: str, presets: str) -> ConfigDict:
    """A baseline on the data of a preset.

    Raises:
        InputError: there is no such preset.
    """
    c = default_config(BASELINE_FIELDS)
    c.strategy = strategy
    named = {"data=pocket": pocket} | {f"data={name}": None for name in DATA}
    if (presets or "data=pocket") not in named:
        what = f"unknown preset {presets!r}{nearest(presets, named)}"
        raise InputError(what, "--config", f"use one of {', '.join(named)}")
    if presets in ("", "data=pocket"):
        pocket(c)
    else:
        c.data.path = DATA[presets.removeprefix("data=")]
    if presets == "data=mmkp_360k":
        c.best_metric, c.most_predicted = "valid/all/f1@M", 5
    return c


def pocket(c: ConfigDict) -> None:
    """The pocket dataset, with a model of a size for it."""
    c.make = "mmkp_jax.pocket.make"
    c.data.path, c.data.kinds = "runs/pocket/dataset", "runs/pocket/needs.jsonl"
    if c.strategy != "embeddings":
        c.embedding_width, c.hidden_width = 64, 64
        c.learning_rate, c.batch_size = 2e-3, 32
        c.num_epochs, c.patience = 10, 3
        c.valid_posts = 128
    if c.strategy == "cmkp":
        c.joint_epochs = 2
    c.ablations = True
