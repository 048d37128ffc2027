"""Opens the run of a baseline, to predict with it."""

import argparse
from pathlib import Path

import jax

from mmkp_jax.baselines.model import define
from mmkp_jax.baselines.predictor import KeyphrasePredictor
from mmkp_jax.baselines.setup import predictor_of, sidecars_of, sizes_of
from mmkp_jax.baselines.vocabulary import load_vocabulary
from mmkp_jax.errors import InputError
from mmkp_jax.inference.hidden_states import HiddenStates, StatePredictor, read_fitted
from mmkp_jax.inference.load_model import checkpoint_of, restored_state, verify_checkpoint
from mmkp_jax.inference.run_config import holds_baseline, run_config
from mmkp_jax.inference.tower_regions import FOLDER, TowerRegions
from mmkp_jax.runtime.baseline_fields import TASKS
from mmkp_jax.training.checkpoint import metadata_of

DEFAULTS = {
    "adapter": "",
    "zero_shot": False,
    "mode": "auto",
    "temperature": 0,
    "top_p": 1.0,
    "seed": 0,
    "n": 1,
    "max_tokens": None,
}
"""Flags of `predict` that a baseline does not take, with their defaults."""


def is_baseline(model: str) -> bool:
    """Whether `WORKDIR`, `WORKDIR@STEP` or `WORKDIR@best` is the run of a baseline."""
    return holds_baseline(_run_of(model)[0])


def open_baseline(flags: argparse.Namespace) -> KeyphrasePredictor | StatePredictor:
    """The predictor of the run that `predict --model` names.

    Raises:
        InputError: there is no such checkpoint, it or the run's files cannot be read, or a flag is for other models.
    """
    for name, default in DEFAULTS.items():
        if getattr(flags, name) != default:
            raise InputError("a baseline has no such setting", f"--{name}", "leave it out")
    workdir, step = _run_of(flags.model)
    config = run_config(workdir, TASKS)
    if config.strategy == "embeddings":
        states = HiddenStates(config.model.path, config.inputs, flags.batch_size or config.eval_batch_size)
        return StatePredictor(states, read_fitted(workdir), load_vocabulary(workdir), config)
    checkpoint, latest = checkpoint_of(workdir, step), checkpoint_of(workdir, "latest")
    vocabulary = load_vocabulary(workdir)
    sidecars = sidecars_of(config, None, lambda model: TowerRegions(model, workdir / FOLDER))
    sizes = sizes_of(config, vocabulary, sidecars)
    structs = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_here()), define(sizes).shapes()
    )
    verify_checkpoint(checkpoint)
    params = restored_state(checkpoint, {"trainable": structs})["trainable"]
    progress = metadata_of(latest if step == "best" else checkpoint).get("progress")
    if not isinstance(progress, dict):
        raise InputError("its metadata has no progress", str(checkpoint), "give another step")
    joint = bool(progress.get("best_joint" if step == "best" else "joint"))
    return predictor_of(config, sizes, vocabulary, sidecars, params, joint=joint, batch_size=flags.batch_size)


def _run_of(model: str) -> tuple[Path, str]:
    """The work directory and the step."""
    path, _, step = (model, "", "") if Path(model).is_dir() else model.partition("@")
    return Path(path), step or "latest"


def _here() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])
