"""Trains, evaluates, and leaves a work directory: `python -m mmkp_jax.main --config=configs/dyncot.py`."""

import importlib
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

import mmkp_jax
from mmkp_jax.assembly import check_settings, dtype_of, plan_training, plan_untrained
from mmkp_jax.commands import Parser, disk_errors_in_one_line, status_of
from mmkp_jax.contents import contents_of, same_content, write_contents
from mmkp_jax.effects import lines_without_effect
from mmkp_jax.errors import AGAIN, BusyError, InputError
from mmkp_jax.evaluate import Evaluation
from mmkp_jax.evaluation.report.page import write_report
from mmkp_jax.exporting import Step, check_exports, export_into_run, note_base
from mmkp_jax.feeding import describe, plan_posts, recipe_of
from mmkp_jax.guards import Watchdog
from mmkp_jax.hf.feeding import fed_otherwise
from mmkp_jax.hf.folder import CONFIG, Folder, load_tokenizer, open_folder
from mmkp_jax.hf.load import check_tensors, load_params
from mmkp_jax.hosts import (
    JOIN_SECONDS,
    check_agreement,
    ending_together,
    everywhere,
    is_writer,
    join,
    on_writer,
    several,
)
from mmkp_jax.maintenance import watch_maintenance
from mmkp_jax.models.definition import Definition, Params, define
from mmkp_jax.predicting import Predictor
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.interrupts import INTERRUPTED
from mmkp_jax.runtime.lock import Lock
from mmkp_jax.settings import read_config
from mmkp_jax.train import Stopped, train
from mmkp_jax.workdir import check_claim, claim, revision, write_environment, write_left_out


def parser() -> Parser:
    """The command's flags."""
    flags = Parser("main", __doc__)
    add = flags.add_argument
    add("--config", metavar="FILE[:preset,…]", help="required: an experiment; --config.key=value overrides a field")
    add("--workdir", type=Path, metavar="DIR", help="the run's folder; an unfinished run there goes on")
    add("--extend", action="store_true", help="let the run there become longer, on the schedule of its new length")
    add("--profile_steps", metavar="FIRST:LAST", help="trace these steps into the run's folder, for TensorBoard")
    add("--coordinator", metavar="HOST:PORT", help="of a job's first process; TPU slices, Slurm and Open MPI tell it")
    add("--num_processes", type=int, metavar="N", help="with --coordinator: how many processes the job has")
    add("--process_id", type=int, metavar="N", help="with --coordinator: which of them this is, from 0")
    add("--lock_seconds", type=float, default=120, metavar="S", help="wait so long for a run on another host to end")
    wait = "how long hosts wait for each other; then those that have joined end, with 76 (default: %(default)g)"
    add("--join_seconds", type=float, default=JOIN_SECONDS, metavar="N", help=wait)
    return flags


def run(config: ConfigDict, workdir: Path, lock: Lock, *, extend: bool = False, profiled: range = range(0)) -> None:
    """The whole of it, on each of the job's hosts.

    All that can be checked without the work directory is checked before it is claimed.

    Args:
        lock: of the work directory; it is left to the caller to give it back.
        extend: a run in the work directory may have been shorter.
        profiled: the steps to trace.

    Raises:
        InputError: something that the user gave cannot be used.
        BusyError: another host writes this run.
        Stopped: the run was asked to stop, and is saved.
    """
    check_settings(config)
    _check_hosts(config, workdir)
    with Watchdog(workdir, config.hang_seconds, jax.process_index()) as watchdog:
        _run_watched(config, workdir, lock, watchdog, extend, profiled)


def _run_watched(
    config: ConfigDict, workdir: Path, lock: Lock, watchdog: Watchdog, extend: bool, profiled: range
) -> None:
    if config.make:
        on_writer(lambda: _make(config.make))
    folder = open_folder(config.model.path)
    tokenizer, where = load_tokenizer(folder), str(folder.path / CONFIG)
    recipe = recipe_of(config, define(folder.config, where), tokenizer)
    if otherwise := fed_otherwise(folder.path, recipe.max_text_tokens):
        print(otherwise)
    dtype = dtype_of(config, "compute_dtype")
    predictor = None

    def predictor_of(params: Params, definition: Definition) -> Predictor:
        nonlocal predictor  # one, so that it is compiled once
        sizes = {"batch_size": config.eval_batch_size, "answer_tokens": config.answer_tokens}
        if predictor is None:
            predictor = Predictor(definition, params, recipe, tokenizer, **sizes, dtype=dtype)
        return predictor.of(params)

    def export(step: int, params: Params) -> None:
        export_into_run(Step(workdir, config, folder, step, params))

    if config.strategy == "zeroshot":
        evaluation = Evaluation(config, watchdog)
        definition, structs = plan_untrained(config, folder, where)
        check_tensors(folder, structs)
        _claim(config, workdir, extend, folder, lock)
        print(lines_without_effect(config, 0), end="")
        params = load_params(folder, structs)
        step = 0
    else:
        training = plan_posts(config, recipe)
        plan = plan_training(config, folder.config, where, total_steps=training.steps)
        definition, evaluation = plan.definition, Evaluation(config, watchdog)
        check_exports(config, folder)
        check_tensors(folder, definition.shapes())
        check_agreement({"dataset": training.feed.records.fingerprint})
        _claim(config, workdir, extend, folder, lock)
        on_writer(lambda: (note_base(workdir, folder), write_left_out(workdir, training.left_out)))
        print(describe(training))
        validate = (lambda params: evaluation.validate(predictor_of(params, definition))) if config.eval_every else None
        step, params = train(config, plan, folder, training, workdir, validate, export, watchdog, profiled)
    signal.signal(signal.SIGTERM, _stop)  # all is saved, and the loop looks for no wish to stop any more
    tested = evaluation.test(predictor_of(params, definition), workdir, step)
    on_writer(lambda: write_report([workdir], workdir / "report.html"))
    if config.strategy != "zeroshot" and config.eval_every:  # after the test, of which its card tells
        export(step, params)
    if is_writer():  # when all files are written: a terminal that ends cannot take them along
        print(f"{tested}\n\nreport: {for_terminal(str(workdir / 'report.html'))}")


def _stop(*_: object) -> None:
    raise Stopped(None, by_user=False)


def _make(module: str) -> None:
    try:
        make = importlib.import_module(module).make
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:
        raise InputError(f"this is no module with a make() ({error})", f"config.make={module}", "name one") from None
    make()


def _check_hosts(config: ConfigDict, workdir: Path) -> None:
    code = f"{mmkp_jax.__version__} {revision()}"
    told = config.to_json_best_effort(sort_keys=True)
    check_agreement({"config": told, "code version": code, "work directory": str(workdir)})


def _claim(config: ConfigDict, workdir: Path, extend: bool, base: Folder, lock: Lock) -> None:
    now = contents_of(config, base)
    fields = config.to_dict()

    def same(field: str, before: object, named: object) -> bool:
        return same_content(workdir, now, field, before, named)

    def begin() -> None:
        resumed = claim(workdir, fields, extend=extend, same=same)
        write_contents(workdir, now)
        write_environment(workdir)
        print(for_terminal(f"{'going on in' if resumed else 'work directory:'} {workdir}"))

    on_writer(lambda: check_claim(workdir, fields, extend=extend, same=same))  # what is another's gets no lock either
    _acquire(lock)
    on_writer(begin)
    if not jax.config.jax_compilation_cache_dir:  # the environment may name one for many runs
        jax.config.update("jax_compilation_cache_dir", str(workdir / "compiled"))
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")  # then it is compiled
    if not (workdir / "config.json").exists():
        what = "this host does not see the work directory that the first host made"
        raise InputError(what, str(workdir), "give a folder that all hosts share")


def _acquire(lock: Lock) -> None:
    """The first host holds the work directory for all."""
    refused: InputError | BusyError | None = None
    if is_writer():
        try:
            lock.acquire()
        except (InputError, BusyError) as error:
            refused = error
    if everywhere(refused is None):
        return
    busy = not everywhere(not isinstance(refused, BusyError))
    what = "the first host of the job cannot have the work directory"
    raise refused or (BusyError(what) if busy else InputError(what, "this host", "see what that one says"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0; 2 after one line on what was wrong; 75 when the machine was taken away or another host holds
    the work directory, 76 when a host, a worker, a step or that directory was lost, 130 when interrupted; a line then
    tells how to go on, and after 75 and 76 launchers do.
    """
    return status_of(_run, arguments)


def _run(arguments: Sequence[str] | None) -> int:
    flags = parser()
    parsed, overrides = flags.parse_with_overrides(arguments)
    if not parsed.config:
        raise InputError("--config is not given", flags.prog, "give --config=configs/dyncot.py, for one")
    if not 0 <= parsed.lock_seconds < float("inf"):
        flags.error(f"--lock_seconds={parsed.lock_seconds} is no number of seconds")
    if not 0 < parsed.join_seconds < float("inf"):
        flags.error(f"--join_seconds={parsed.join_seconds:g} is no number of seconds above 0")
    profiled = _steps(parsed.profile_steps, flags)
    config = read_config(parsed.config, overrides)
    join(parsed.coordinator, parsed.num_processes, parsed.process_id, parsed.join_seconds)
    name = Path(parsed.config.partition(":")[0]).stem
    workdir = parsed.workdir or Path(f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    resume = shlex.join([f"--config={parsed.config}", *overrides, f"--workdir={workdir}"])
    if not several():  # of several hosts, JAX takes the signal, and the loop sees it
        signal.signal(signal.SIGTERM, _stop)
    lock = Lock(workdir, parsed.lock_seconds)
    with ending_together(), disk_errors_in_one_line(workdir), watch_maintenance(), lock:
        if several() and not parsed.workdir:
            what = "several hosts need the same --workdir"
            raise InputError(what, flags.prog, "give a folder that all of them share")
        try:
            run(config, workdir, lock, extend=parsed.extend, profiled=profiled)
        except BusyError as busy:
            print(for_terminal(str(busy)), file=sys.stderr, flush=True)
            if several():
                os._exit(AGAIN)
            return AGAIN
        except (KeyboardInterrupt, Stopped) as stopped:
            step, by_user = (stopped.step, stopped.by_user) if isinstance(stopped, Stopped) else (None, True)
            saved = f", and saved, at step {step:,}" if step else ""
            begun = (workdir / "config.json").exists()
            to_go_on = f"to go on: python -m mmkp_jax.main {resume}" if begun else "nothing was begun: start it again"
            print(for_terminal(f"stopped{saved}; {to_go_on}"), flush=True)
            status = INTERRUPTED if by_user else AGAIN
            if several() and not step:
                os._exit(status)  # an orderly end would wait for the others, for minutes
            return status
    return 0


def _steps(named: str | None, flags: Parser) -> range:
    """`FIRST:LAST`, both included."""
    if named is None:
        return range(0)
    first, _, last = named.partition(":")
    are_numbers = all(each.isdecimal() and len(each) < 19 for each in (first, last))
    if not (are_numbers and 0 < int(first) <= int(last)):
        flags.error(f"--profile_steps={named[:40]} is not FIRST:LAST, two steps from 1 on")
    return range(int(first), int(last) + 1)


if __name__ == "__main__":
    sys.exit(main())
