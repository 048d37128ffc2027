"""A config from the flags that name it: `--config=FILE[:preset,…] [--config.key=value …]`."""

import runpy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from mmkp_jax.errors import InputError, nearest
from mmkp_jax.runtime.paths import check_local

PATHS = ("model.path", "data.path", "data.train_keyphrases", "data.kinds")
"""Fields that name local files or folders (`data.path` a list of them; `model.path` may be a hub id)."""


def read_config(named: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config that FILE[:preset,…] gives, with its fields as the `overrides` say.

    Raises:
        InputError: there is no such file, preset or field, or a field takes no such value.
    """
    file, _, chosen = named.partition(":")
    if not Path(file).is_file():
        raise InputError(f"there is no config {file!r}", "--config", "give --config=configs/dyncot.py, for one")
    try:
        config = runpy.run_path(file)["get_config"](chosen)  # here, as ml_collections would wrap its errors
        known = [key for key, _ in leaves(config.to_dict())]
    except InputError:
        raise
    except Exception as error:  # whatever the code in the user's file does
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"it gives no config ({reason})", file, "make it as configs/dyncot.py is made") from None
    for each in overrides:
        key = each.removeprefix("--config.").partition("=")[0]
        if key not in known:
            raise InputError(f"unknown key {key!r}{nearest(key, known)}", f"--config.{key}", "see configs/base.py")
    values, argv = flags.FlagValues(), ["", f"--config={named}", *overrides]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())
        raise InputError(reason, "flags", "see --help and configs/base.py") from None
    for field, value in leaves(values.config.to_dict()):
        if field in PATHS:
            for each in str(value).split(","):
                check_local(each.strip(), f"config.{field}")
    return values.config


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a config as plain values, each with its dotted key; an empty mapping is a value."""
    if isinstance(tree, Mapping) and tree:
        for name, value in tree.items():
            yield from leaves(value, f"{path}.{name}" if path else name)
    else:
        yield path, tree
