"""The `config.json` of a work directory, read by those who use a run: damage in it is one line."""

from pathlib import Path

from ml_collections import ConfigDict

from mmkp_jax.errors import InputError
from mmkp_jax.hf.folder import CONFIG
from mmkp_jax.runtime.json_files import Fields, is_integer, is_texts, read_object
from mmkp_jax.training.objectives import STRATEGIES
from mmkp_jax.training.setup import DTYPES

_HINT = "restore it: it is what the run was started with"

_TEXTS = ("gamma_mode", "pack_for")
_COUNTS = ("total_steps", "warmup_steps", "global_batch_size", "eval_every", "seed")
_SIZES = ("eval_batch_size", "answer_tokens")
_NUMBERS = (
    *("num_epochs", "gamma", "multitask_weight", "learning_rate"),
    *("b1", "b2", "eps", "weight_decay", "clip_norm"),
)
_ROW = ("tokens", "labels", "examples")


def run_config(workdir: Path) -> ConfigDict:
    """The config of the run in a work directory.

    Raises:
        InputError: there is none, it cannot be read, or a field that using the run needs is missing or of another type.
    """
    fields = read_object(workdir / CONFIG, _HINT)
    if "strategy" not in fields.content:
        raise InputError(f"its {CONFIG} is not a run's", str(workdir), "give a run's work directory")
    _check(fields)
    try:
        return ConfigDict(dict(fields.content))
    except (ValueError, TypeError) as error:  # of a field's name
        reason = " ".join(str(error).split())
        raise InputError(f"this is not the config of a run ({reason})", str(workdir / CONFIG), _HINT) from None


def holds_run(workdir: Path) -> bool:
    """Whether a folder has the config of a run, whole or damaged inside; a file that is no JSON is no run's."""
    if not (workdir / CONFIG).is_file():
        return False
    try:
        return "strategy" in read_object(workdir / CONFIG).content
    except InputError:  # said when it is opened as a model folder
        return False


def _check(fields: Fields) -> None:
    if fields.text("strategy") not in STRATEGIES:
        fields.refuse("strategy", f"one of {', '.join(STRATEGIES)}")
    for name in ("compute_dtype", "frozen_dtype"):
        if fields.text(name) not in DTYPES:
            fields.refuse(name, f"one of {', '.join(DTYPES)}")
    for name in _TEXTS:
        fields.text(name)
    for name in _COUNTS:
        fields.integer(name)
    fields.integer("posts_per_step", 0)  # older runs have none
    for name in _SIZES:
        fields.integer(name, least=1)
    for name in _NUMBERS:
        fields.number(name)
    fields.texts("freeze")
    fields.object("model").text("path")
    data, row, mesh, rules = (fields.object(name) for name in ("data", "row", "mesh", "sharding_rules"))
    for name in ("path", "train_keyphrases", "kinds"):
        data.text(name)
    data.integer("max_text_tokens", least=1)
    for name in _ROW:
        row.integer(name)
    for numbers in (data.object("images"), row.object("images")):
        for name in numbers.content:
            numbers.integer(name)
    for name, value in mesh.content.items():
        if not is_integer(value):
            mesh.refuse(name, "a whole number")
    for name, value in rules.content.items():
        if not (value is None or isinstance(value, str) or is_texts(value)):
            rules.refuse(name, "an axis of the mesh")
