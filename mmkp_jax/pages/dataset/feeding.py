"""Reads how a config turns its dataset into batches, with the functions that training uses."""

from collections.abc import Sequence
from pathlib import Path

from mmkp_jax.data.forest import row_size
from mmkp_jax.errors import InputError
from mmkp_jax.families import known
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import load_tokenizer, open_folder
from mmkp_jax.hf.preprocessor import training_settings
from mmkp_jax.pages.dataset.facts import BatchSetup
from mmkp_jax.runtime.config import read_config
from mmkp_jax.training.batches import branches_of, complete_config, datasets_of, make_data, recipe_of


def read_batch_setup(named: str, overrides: Sequence[str], data: Path | None) -> tuple[Path, BatchSetup]:
    """The dataset, and how the config turns it into batches for its model.

    Args:
        named, overrides: the config, as `read_config` takes it.
        data: the dataset, if it is not the config's.

    Raises:
        InputError: the config, its model or its dataset cannot be used.
    """
    config = read_config(named, overrides, known.fields())
    make_data(config)
    if not data:
        data, *others = (Path(dataset.path) for dataset in datasets_of(config))
        if others:
            raise InputError(f"it names {1 + len(others)} datasets", "config.data.path", "choose one with --data=DIR")
    branches = branches_of(config)
    folder = open_folder(config.model.path)
    tokenizer = load_tokenizer(folder)
    definition = define(folder.config, folder.config_file)
    config = complete_config(config, definition, training_settings(folder.path, folder.family, folder.model_config))
    recipe = recipe_of(config, definition, tokenizer)
    rows = row_size(config.row, recipe.processor)
    steps = (config.strategy, config.posts_per_step, config.num_epochs, config.total_steps)
    return data, BatchSetup(recipe, tokenizer, rows, branches, config.global_batch_size, config.seed, *steps)
