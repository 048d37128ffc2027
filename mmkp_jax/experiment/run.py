"""A whole experiment: data, training, evaluation and report, on each of the job's hosts."""

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

import mmkp_jax
from mmkp_jax.errors import BusyError, InputError
from mmkp_jax.experiment.afterwards import finish, is_over, report_line
from mmkp_jax.families.registry import define
from mmkp_jax.hf.adapter import check_adapter
from mmkp_jax.hf.folder import Folder, load_tokenizer, open_folder, stop_tokens
from mmkp_jax.hf.load import check_tensors, load_params
from mmkp_jax.hf.preprocessor import training_settings
from mmkp_jax.hf.prompt_limits import text_limit_warning
from mmkp_jax.inference.base import record_base
from mmkp_jax.inference.evaluate import Evaluation
from mmkp_jax.inference.export_run import RunStep, check_exports, export_into_run
from mmkp_jax.inference.predictor import Predictor
from mmkp_jax.models.compilation_cache import keep_compiled
from mmkp_jax.models.definition import Definition, Params
from mmkp_jax.pages.report.page import write_report
from mmkp_jax.runtime.atomic import write_text
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.field_checks import check_settings
from mmkp_jax.runtime.hosts import (
    check_agreement,
    is_writer,
    on_writer,
    true_on_all_hosts,
)
from mmkp_jax.runtime.lock import Lock
from mmkp_jax.training.batches import complete_config, make_data, plan_posts, recipe_of, training_summary
from mmkp_jax.training.contents import (
    CONTENT_FIELDS,
    check_contents,
    check_put_aside,
    contents_of,
    same_content,
    write_contents,
)
from mmkp_jax.training.effects import lines_without_effect
from mmkp_jax.training.loop import Stopped, train
from mmkp_jax.training.setup import dtype_of, plan_training, plan_untrained
from mmkp_jax.training.trackers.reporting import Trackers
from mmkp_jax.training.watchdog import Watchdog
from mmkp_jax.training.workdir import check_claim, claim, revision, write_environment, write_left_out


def run_experiment(
    config: ConfigDict, workdir: Path, lock: Lock, *, extend: bool = False, profiled: range = range(0)
) -> None:
    """Runs an experiment, on each of the job's hosts.

    Everything that can be checked without the work directory is checked before it is claimed.

    Args:
        lock: the work directory's lock; the caller releases it.
        extend: a run in the work directory may have been shorter.
        profiled: steps to trace.

    Raises:
        InputError: something that the user gave cannot be used.
        BusyError: another host is writing this run.
        Stopped: the run was asked to stop, and is saved.
    """
    check_settings(config)
    _check_hosts(config, workdir)
    given = json.loads(config.to_json_best_effort())
    if is_over(workdir, given):
        return
    watched = Watchdog(workdir, config.hang_seconds, jax.process_index())
    with watched as watchdog, Trackers(config.report_to, workdir) as trackers:
        _run_watched(config, given, workdir, lock, watchdog, trackers, extend, profiled)


def _run_watched(
    config: ConfigDict,
    given: Mapping[str, Any],
    workdir: Path,
    lock: Lock,
    watchdog: Watchdog,
    trackers: Trackers,
    extend: bool,
    profiled: range,
) -> None:
    if config.make:
        on_writer(lambda: make_data(config))
    folder = open_folder(config.model.path)
    tokenizer, where = load_tokenizer(folder), folder.config_file
    definition = define(folder.config, where)
    config = complete_config(config, definition, training_settings(folder.path, folder.family, folder.model_config))
    recipe = recipe_of(config, definition, tokenizer)
    stops = stop_tokens(folder, recipe.template.end_token)
    if warning := text_limit_warning(folder.path, recipe.max_text_tokens):
        print(warning)
    dtype = dtype_of(config, "compute_dtype")
    predictor = None

    def predictor_of(params: Params, definition: Definition) -> Predictor:
        nonlocal predictor  # one, so that it is compiled once
        sizes = {"batch_size": config.eval_batch_size, "answer_tokens": config.answer_tokens}
        if predictor is None:
            predictor = Predictor(definition, params, recipe, tokenizer, stop_tokens=stops, **sizes, dtype=dtype)
        return predictor.with_params(params)

    def export(step: int, params: Params) -> None:
        export_into_run(RunStep(workdir, config, folder, step, params, definition))

    if config.strategy == "zeroshot":
        evaluation = Evaluation(config, watchdog)
        definition, structs = plan_untrained(config, folder, where)
        check_tensors(folder, structs)
        _claim(config, workdir, extend, folder, lock)
        on_writer(lambda: record_base(workdir, folder))
        on_writer(lambda: trackers.start(config.to_dict()))
        print(lines_without_effect(config, 0), end="")
        params = load_params(folder, structs)
        step = 0
    else:
        training = plan_posts(config, recipe)
        plan = plan_training(config, folder.config, where, total_steps=training.steps)
        definition, evaluation = plan.definition, Evaluation(config, watchdog)
        check_exports(config, folder)
        check_tensors(folder, definition.base_shapes())
        if plan.adapter:
            check_adapter(definition, plan.adapter, plan.state["trainable"])
        check_agreement({"dataset": training.feed.records.fingerprint})
        _claim(config, workdir, extend, folder, lock)
        on_writer(lambda: (record_base(workdir, folder), write_left_out(workdir, training.left_out)))
        on_writer(lambda: trackers.start(config.to_dict()))
        print(training_summary(training))
        validate = (lambda params: evaluation.validate(predictor_of(params, definition))) if config.eval_every else None
        step, params = train(config, plan, folder, training, workdir, validate, export, watchdog, trackers, profiled)
    signal.signal(signal.SIGTERM, raise_stopped)  # everything is saved, and the loop no longer checks for signals
    tested = evaluation.test(predictor_of(params, definition), workdir, step)
    on_writer(lambda: write_text(workdir / "results.txt", tested))
    on_writer(lambda: write_report([workdir], workdir / "report.html"))
    on_writer(lambda: trackers.summarise(step))
    if config.strategy != "zeroshot" and config.eval_every:  # after the test, whose scores its card reports
        export(step, params)
    if is_writer():  # after all files are written: a terminal that closes cannot interrupt them
        if not trackers.lost:  # else its next start sends them what they lack
            finish(workdir, given)
        print(tested, report_line(workdir), sep="\n\n")


def raise_stopped(*_: object) -> None:
    """Signal handler that stops a run with nothing to save."""
    raise Stopped(None, by_user=False)


def _check_hosts(config: ConfigDict, workdir: Path) -> None:
    code = f"{mmkp_jax.__version__} {revision()}"
    fields = config.to_json_best_effort(sort_keys=True)
    check_agreement({"config": fields, "code version": code, "work directory": str(workdir)})


def _claim(config: ConfigDict, workdir: Path, extend: bool, base: Folder, lock: Lock) -> None:
    now = contents_of(config, base)
    on_writer(lambda: check_put_aside(workdir, config))
    fields = config.to_dict()
    # of a trained run, the base and the posts are compared where more is known about them
    compared = CONTENT_FIELDS if config.strategy == "zeroshot" else set(CONTENT_FIELDS) - {"data.path", "model.path"}

    def same(field: str, before: object, named: object) -> bool:
        return same_content(workdir, now, field, before, named)

    def start() -> None:
        check_contents(workdir, now, sorted(compared))
        resumed = claim(workdir, fields, extend=extend, same=same)
        write_contents(workdir, now)
        write_environment(workdir)
        print(for_terminal(f"{'resuming in' if resumed else 'work directory:'} {workdir}"))

    # before the lock: none is made in a folder that holds something else
    on_writer(lambda: check_claim(workdir, fields, extend=extend, same=same))
    _acquire(lock)
    on_writer(start)
    keep_compiled(workdir / "compiled")
    if not (workdir / "config.json").exists():
        what = "this host does not see the work directory that the first host made"
        raise InputError(what, str(workdir), "give a folder that all hosts share")


def _acquire(lock: Lock) -> None:
    """Acquires the lock on the first host, for all of them."""
    refused: InputError | BusyError | None = None
    if is_writer():
        try:
            lock.acquire()
        except (InputError, BusyError) as error:
            refused = error
    if true_on_all_hosts(refused is None):
        return
    busy = not true_on_all_hosts(not isinstance(refused, BusyError))
    what = "the first host of the job cannot lock the work directory"
    raise refused or (BusyError(what) if busy else InputError(what, "this host", "see the message of the first host"))
