"""Trains, evaluates, and leaves a work directory: `python -m mmkp_jax.main --config=configs/dyncot.py`."""

import importlib
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from mmkp_jax.assembly import check_settings, dtype_of, load_untrained, plan_training
from mmkp_jax.commands import Parser, disk_errors_in_one_line, status_of
from mmkp_jax.errors import InputError
from mmkp_jax.evaluate import Evaluation
from mmkp_jax.evaluation.report.page import write_report
from mmkp_jax.feeding import describe, plan_posts, recipe_of
from mmkp_jax.hf.folder import CONFIG, load_tokenizer, open_folder
from mmkp_jax.models.definition import Definition, Params, define
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
    check_settings(config)
    if config.make:
        _make(config.make)
    folder = open_folder(config.model.path)
    tokenizer, where = load_tokenizer(folder), str(folder.path / CONFIG)
    recipe = recipe_of(config, define(folder.config, where), tokenizer)
    dtype = dtype_of(config, "compute_dtype")
    predictor = None

    def predictor_of(params: Params, definition: Definition) -> Predictor:
        nonlocal predictor  # one, so that it is compiled once
        sizes = {"batch_size": config.eval_batch_size, "answer_tokens": config.answer_tokens}
        if predictor is None:
            predictor = Predictor(definition, params, recipe, tokenizer, **sizes, dtype=dtype)
        return predictor.of(params)

    if config.strategy == "zeroshot":
        evaluation = Evaluation(config)
        _claim(config, workdir)
        definition, params = load_untrained(config, folder, where)
        step = 0
    else:
        training = plan_posts(config, recipe)
        plan = plan_training(config, folder.config, where, total_steps=training.steps)
        definition, evaluation = plan.definition, Evaluation(config)
        _claim(config, workdir)
        write_left_out(workdir, training.left_out)
        print(describe(training))
        validate = (lambda params: evaluation.validate(predictor_of(params, definition))) if config.eval_every else None
        step, params = train(config, plan, folder, training, workdir, validate)
    evaluation.test(predictor_of(params, definition), workdir, step)
    if jax.process_index() == 0:
        write_report([workdir], workdir / "report.html")
        print(f"\nreport: {workdir / 'report.html'}")


def _make(module: str) -> None:
    try:
        make = importlib.import_module(module).make
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"this is no module with a make() ({error})", f"config.make={module}", "name one") from None
    make()


def _claim(config: ConfigDict, workdir: Path) -> None:
    resumed = claim(workdir, config.to_dict())
    write_environment(workdir)
    print(f"{'going on in' if resumed else 'work directory:'} {workdir}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0; 2 after one line on what was wrong; 130 when interrupted, after a line on how to go on."""
    return status_of(_run, arguments)


def _run(arguments: Sequence[str] | None) -> int:
    flags = parser()
    parsed, overrides = flags.parse_with_overrides(arguments)
    if not parsed.config:
        raise InputError("--config is not given", flags.prog, "give --config=configs/dyncot.py, for one")
    config = read_config(parsed.config, overrides)
    name = Path(parsed.config.partition(":")[0]).stem
    workdir = parsed.workdir or Path(f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    resume = shlex.join([f"--config={parsed.config}", *overrides, f"--workdir={workdir}"])
    try:
        with disk_errors_in_one_line(workdir):
            run(config, workdir)
    except (Stopped, KeyboardInterrupt) as stopped:
        saved = f", and saved, at step {stopped.step:,}" if isinstance(stopped, Stopped) else ""
        print(f"stopped{saved}; to go on: python -m mmkp_jax.main {resume}")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
