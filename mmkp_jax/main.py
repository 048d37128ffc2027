"""Trains, evaluates, and writes a work directory: `python -m mmkp_jax.main --config=configs/dyncot.py`."""

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from mmkp_jax.errors import AGAIN, BusyError, InputError
from mmkp_jax.families import known
from mmkp_jax.runtime.baseline_fields import TASKS
from mmkp_jax.runtime.cli import Parser, disk_errors_in_one_line, status_of
from mmkp_jax.runtime.config import read_config
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.field_text import as_help
from mmkp_jax.runtime.installed import check_installed
from mmkp_jax.runtime.interrupts import INTERRUPTED, while_loading
from mmkp_jax.runtime.lock import Lock
from mmkp_jax.runtime.meeting import JOIN_SECONDS
from mmkp_jax.runtime.program import command_line


def parser() -> Parser:
    """The command's flags."""
    layout = argparse.RawDescriptionHelpFormatter
    flags = Parser("main", __doc__, epilog=as_help(), formatter_class=layout)
    add = flags.add_argument
    add(
        "--config",
        metavar="FILE|NAME[:preset,…]",
        help="required: an experiment; --config.key=value overrides a field, of those below",
    )
    add("--workdir", type=Path, metavar="DIR", help="the run's folder; an unfinished run there resumes")
    add(
        "--extend",
        action="store_true",
        help="let the run there become longer, on the learning-rate schedule of its new length",
    )
    add("--profile_steps", metavar="FIRST:LAST", help="trace these steps into the run's folder, for TensorBoard")
    add(
        "--coordinator",
        metavar="HOST:PORT",
        help="a job's first process; found by itself on TPU slices, Slurm and Open MPI",
    )
    add("--num_processes", type=int, metavar="N", help="with --coordinator: how many processes the job has")
    add("--process_id", type=int, metavar="N", help="with --coordinator: the number of this process, from 0")
    add("--lock_seconds", type=float, default=120, metavar="S", help="seconds to wait for a run on another host to end")
    wait = "seconds that hosts wait for each other; then those that joined exit with 76 (default: %(default)g)"
    add("--join_seconds", type=float, default=JOIN_SECONDS, metavar="N", help=wait)
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0; 2 after one line on what was wrong; 75 when the machine was taken away or another host holds
    the work directory, 76 when a host, a worker, a step or that directory was lost, 130 when interrupted; a line then
    says how to resume, which launchers do after 75 and 76.
    """
    return status_of(_run, arguments)


def _run(arguments: Sequence[str] | None) -> int:
    flags = parser()
    parsed, overrides = flags.parse_with_overrides(arguments)
    if not parsed.config:
        raise InputError("--config is not given", flags.prog, "give --config=dyncot, for one")
    if not 0 <= parsed.lock_seconds < float("inf"):
        flags.error(f"--lock_seconds={parsed.lock_seconds} is not a number of seconds")
    if not 0 < parsed.join_seconds < float("inf"):
        flags.error(f"--join_seconds={parsed.join_seconds:g} is not a number of seconds above 0")
    profiled = _steps(parsed.profile_steps, flags)
    config = read_config(parsed.config, overrides, known.fields(), tasks=TASKS)
    trackers = config.get("report_to", ())
    check_installed(trackers, "config.report_to", trackers)
    name = Path(parsed.config.partition(":")[0]).stem
    workdir = parsed.workdir or Path(f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    return _run_checked(parsed, config, workdir, profiled, [f"--config={parsed.config}", *overrides])


def _run_checked(
    flags: argparse.Namespace, config: ConfigDict, workdir: Path, profiled: range, experiment: list[str]
) -> int:
    """The exit status of an experiment whose flags and config are valid.

    Args:
        experiment: the flags that name it.
    """
    with while_loading():  # takes seconds, which a mistake in the flags does not cost
        from mmkp_jax.experiment.afterwards import next_commands
        from mmkp_jax.experiment.baseline import run_baseline
        from mmkp_jax.experiment.run import raise_stopped, run_experiment
        from mmkp_jax.runtime.hosts import ending_together, is_multi_host, is_writer, join
        from mmkp_jax.runtime.maintenance import watch_maintenance
        from mmkp_jax.training.loop import Stopped

    join(flags.coordinator, flags.num_processes, flags.process_id, flags.join_seconds)
    if not is_multi_host():  # with several hosts, JAX handles the signal, and the loop sees it
        signal.signal(signal.SIGTERM, raise_stopped)
    lock = Lock(workdir, flags.lock_seconds)
    with ending_together(), disk_errors_in_one_line(workdir), watch_maintenance(), lock:
        if is_multi_host() and not flags.workdir:
            what = "several hosts need the same --workdir"
            raise InputError(what, command_line("main"), "give a folder that all of them share")
        try:
            if config.task == "baseline":
                run_baseline(config, workdir, lock, extend=flags.extend)
            else:
                run_experiment(config, workdir, lock, extend=flags.extend, profiled=profiled)
            if is_writer():
                print("", *map(for_terminal, next_commands(workdir, config, experiment)), sep="\n")
        except BusyError as busy:
            print(for_terminal(str(busy)), file=sys.stderr, flush=True)
            if is_multi_host():
                os._exit(AGAIN)
            return AGAIN
        except (KeyboardInterrupt, Stopped) as stopped:
            step, by_user = (stopped.step, stopped.by_user) if isinstance(stopped, Stopped) else (None, True)
            saved = f", and saved, at step {step:,}" if step else ""
            started = (workdir / "config.json").exists()
            resume = shlex.join([*experiment, f"--workdir={workdir}"])
            next_step = (
                f"to resume: {command_line('main')} {resume}" if started else "nothing was started: start it again"
            )
            print(for_terminal(f"stopped{saved}; {next_step}"), flush=True)
            status = INTERRUPTED if by_user else AGAIN
            if is_multi_host() and not step:
                os._exit(status)  # an orderly exit would wait minutes for the others
            return status
    return 0


def _steps(named: str | None, flags: Parser) -> range:
    """The steps of `FIRST:LAST`, both included."""
    if named is None:
        return range(0)
    first, _, last = named.partition(":")
    are_numbers = all(each.isdecimal() and len(each) < 19 for each in (first, last))
    if not (are_numbers and 0 < int(first) <= int(last)):
        flags.error(f"--profile_steps={named[:40]} is not FIRST:LAST, two steps from 1 on")
    return range(int(first), int(last) + 1)


if __name__ == "__main__":
    sys.exit(main())
