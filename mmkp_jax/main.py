"""Trains, evaluates, and leaves a work directory: `python -m mmkp_jax.main --config=configs/dyncot.py`."""

import contextlib
import errno
import importlib
import runpy
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from mmkp_jax.assembly import plan_training
from mmkp_jax.errors import InputError
from mmkp_jax.evaluate import evaluate
from mmkp_jax.feeding import describe, plan_posts, recipe_of
from mmkp_jax.hf.folder import CONFIG, load_tokenizer, open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.models.definition import define
from mmkp_jax.optim import join_params
from mmkp_jax.train import Stopped, train
from mmkp_jax.workdir import claim, write_environment, write_left_out

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}

FLAGS = flags.FlagValues()
config_flags.DEFINE_config_file(
    "config", None, "An experiment: FILE[:preset,…]; --config.key=value overrides a field.", flag_values=FLAGS
)
flags.DEFINE_string("workdir", None, "The run's folder; an unfinished run there goes on.", flag_values=FLAGS)


def run(config: ConfigDict, workdir: Path) -> None:
    """The whole of it.

    Raises:
        InputError: something that the user gave cannot be used.
        Stopped: the run was asked to stop, and is saved.
    """
    if config.make:
        importlib.import_module(config.make).make()
    folder = open_folder(config.model.path)
    tokenizer = load_tokenizer(folder)
    definition = define(folder.config, str(folder.path / CONFIG))
    recipe = recipe_of(config, definition, tokenizer)
    if config.strategy == "zeroshot":
        _claim(config, workdir)
        params, step = load_params(folder, definition.shapes()), 0
    else:
        training = plan_posts(config, recipe)
        plan = plan_training(config, folder.config, str(folder.path / CONFIG), total_steps=training.steps)
        _claim(config, workdir)
        write_left_out(workdir, training.left_out)
        print(describe(training))
        state = train(config, plan, folder, training, workdir)
        params, step = join_params(state["trainable"], state["frozen"]), int(state["step"])
    evaluate(config, definition, params, recipe, tokenizer, workdir, step)


def _claim(config: ConfigDict, workdir: Path) -> None:
    resumed = claim(workdir, config.to_dict())
    write_environment(workdir)
    print(f"{'going on in' if resumed else 'work directory:'} {workdir}")


def main(argv: Sequence[str]) -> int:
    """The exit status: 0; 2 after one line on what was wrong; 130 when interrupted, after a line on how to go on."""
    if {"--help", "-h"} & set(argv[1:]):
        print(f"{__doc__}\n\n{FLAGS.get_help()}")
        return 0
    try:
        config, workdir = _parse(argv)
        with _disk_errors_in_one_line(workdir):
            run(config, workdir)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except Stopped as stopped:
        resume = " ".join([*(each for each in argv[1:] if not each.startswith("--workdir")), f"--workdir={workdir}"])
        print(f"stopped, and saved, at step {stopped.args[0]:,}; to go on: python -m mmkp_jax.main {resume}")
        return 130
    return 0


@contextlib.contextmanager
def _disk_errors_in_one_line(workdir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where = error.filename or workdir
        raise InputError(f"cannot be written ({error.strerror})", str(where), "see to space and permissions") from error


def _parse(argv: Sequence[str]) -> tuple[ConfigDict, Path]:
    """The config and the work directory that the flags name."""
    for flag in [each for each in argv if each.startswith("--config=")] or [""]:
        _try_config(flag.removeprefix("--config="))
    try:
        rest = FLAGS(argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())
        raise InputError(reason, "flags", "see --help and configs/base.py") from None
    if rest:
        raise InputError(f"unexpected {rest[0]!r}", "flags", "see --help")
    name = Path(FLAGS["config"].config_filename).stem
    return FLAGS.config, Path(FLAGS.workdir or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")


def _try_config(flag: str) -> None:
    """Raises InputError where FILE[:preset,…] gives no config, in its own words: ml_collections would wrap them."""
    file, _, chosen = flag.partition(":")
    if not Path(file).is_file():
        what = f"there is no config {file!r}" if file else "--config is not given"
        raise InputError(what, "--config", "give --config=configs/dyncot.py, for one")
    runpy.run_path(file)["get_config"](chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
