"""Trains, evaluates, and leaves a work directory: `python -m mmkp_jax.main --config=configs/dyncot.py`."""

import importlib
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from mmkp_jax.assembly import DTYPES, plan_training
from mmkp_jax.commands import Parser, disk_errors_in_one_line, status_of
from mmkp_jax.errors import InputError
from mmkp_jax.evaluate import evaluate, validation
from mmkp_jax.evaluation.report.page import write_report
from mmkp_jax.feeding import describe, plan_posts, recipe_of
from mmkp_jax.hf.folder import CONFIG, load_tokenizer, open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.models.definition import Params, define
from mmkp_jax.optim import join_params
from mmkp_jax.predicting import Predictor
from mmkp_jax.settings import read_config
from mmkp_jax.train import Stopped, train
from mmkp_jax.workdir import claim, write_environment, write_left_out


def parser() -> Parser:
    """The command's flags."""
    flags = Parser("main", __doc__)
    add = flags.add_argument
    add("--config", metavar="FILE[:preset,…]", help="required: an experiment; --config.key=value overrides a field")
    add("--workdir", type=Path, metavar="DIR", help="the run's folder; an unfinished run there goes on")
    return flags


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

    predictor = None

    def predictor_of(params: Params) -> Predictor:
        nonlocal predictor  # one, so that it is compiled once
        sizes = {"batch_size": config.eval_batch_size, "answer_tokens": config.answer_tokens}
        more = {**sizes, "dtype": DTYPES[config.compute_dtype]}
        predictor = predictor.of(params) if predictor else Predictor(definition, params, recipe, tokenizer, **more)
        return predictor

    if config.strategy == "zeroshot":
        _claim(config, workdir)
        params, step = load_params(folder, definition.shapes()), 0
    else:
        training = plan_posts(config, recipe)
        plan = plan_training(config, folder.config, str(folder.path / CONFIG), total_steps=training.steps)
        _claim(config, workdir)
        write_left_out(workdir, training.left_out)
        print(describe(training))
        validate = validation(config, predictor_of) if config.eval_every else None
        state = train(config, plan, folder, training, workdir, validate)
        params, step = join_params(state["trainable"], state["frozen"]), int(state["step"])
    evaluate(config, predictor_of(params), workdir, step)
    if jax.process_index() == 0:
        write_report([workdir], workdir / "report.html")
        print(f"\nreport: {workdir / 'report.html'}")


def _claim(config: ConfigDict, workdir: Path) -> None:
    resumed = claim(workdir, config.to_dict())
    write_environment(workdir)
    print(f"{'going on in' if resumed else 'work directory:'} {workdir}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0; 2 after one line on what was wrong; 130 when interrupted, after a line on how to go on."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        return status_of(_run, given)
    except Stopped as stopped:
        flags, overrides = parser().parse_with_overrides(given)
        resume = shlex.join([f"--config={flags.config}", *overrides, f"--workdir={stopped.workdir}"])
        print(f"stopped, and saved, at step {stopped.step:,}; to go on: python -m mmkp_jax.main {resume}")
        return 130


def _run(arguments: Sequence[str]) -> None:
    flags = parser()
    parsed, overrides = flags.parse_with_overrides(arguments)
    if not parsed.config:
        raise InputError("--config is not given", flags.prog, "give --config=configs/dyncot.py, for one")
    config = read_config(parsed.config, overrides)
    name = Path(parsed.config.partition(":")[0]).stem
    workdir = parsed.workdir or Path(f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    with disk_errors_in_one_line(workdir):
        run(config, workdir)


if __name__ == "__main__":
    sys.exit(main())
