"""What every command does with its questions: tell the bill, or have them answered."""

import argparse
import contextlib
from collections.abc import Iterator

from mmkp_jax.errors import InputError
from mmkp_jax.teacher.endpoint import Endpoint
from mmkp_jax.teacher.flags import limits_of, prices_of
from mmkp_jax.teacher.forecast import forecast
from mmkp_jax.teacher.progress import AskState, Patience, ProgressBar, Rejector
from mmkp_jax.teacher.questions import QuestionOf
from mmkp_jax.teacher.repair import damaged_file
from mmkp_jax.teacher.store import Store

STOPPED = 3
"""The exit status of a command that --max_cost stopped: what it was to write is not complete."""
NOTHING = 4
"""The exit status of a command for which nothing was answered, or of whose answers none was of use."""


class NothingError(Exception):
    """None of the posts has a usable answer, though everything was asked and written; says why."""


def print_forecast(flags: argparse.Namespace, total: int, question_of: QuestionOf, endpoint: Endpoint) -> None:
    """What asking for the answers that are not in --store would take; nobody is called, and nothing written."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Store(flags.store)) if flags.store.exists() else None
        known, limits = (store, store.answer_limits) if store is not None else ((), ())
        print(forecast(total, question_of, known, endpoint.answer_tokens, prices_of(flags), limits).text())


@contextlib.contextmanager
def ask_questions(
    flags: argparse.Namespace,
    total: int,
    question_of: QuestionOf,
    endpoint: Endpoint,
    *,
    reject: Rejector,
    unit: str = "post",
    batch_size: int | None = None,
) -> Iterator[tuple[AskState, Store]]:
    """How it went, and --store with the answers, open until the block ends.

    Args:
        total: questions, numbered from 0.
        reject: why an answer is of no use; the first --give_up_after of them end the command.
        unit: what a question is about.
        batch_size: of the Batch API, which is used where this is given.

    Raises:
        InputError: nothing can be asked, or answers cannot be kept.
        KeyboardInterrupt: after Ctrl-C.
    """
    endpoint.key()  # before anything is opened
    for file in (flags.out, flags.store):
        if not file.parent.is_dir():
            raise InputError("there is no such folder", str(file.parent), "make it, or name another")
    try:
        from mmkp_jax.teacher.asking import ask_all  # here, as only those who ask need the extra
        from mmkp_jax.teacher.batch import ask_in_batches
    except ModuleNotFoundError as error:
        hint = "pip install 'mmkp_jax[teacher]'"
        raise InputError(f"it needs {error.name}, which is not installed", "an endpoint's client", hint) from None
    prices = prices_of(flags)
    with Store(flags.store, repair=flags.repair) as store:
        if store.repaired:
            print(f"{store.repaired:,} damaged lines of {store.file} are in {damaged_file(store.file).name} now")
        with contextlib.closing(ProgressBar(total, prices, unit)) as progress:
            options = {"limits": limits_of(flags), "prices": prices, "max_cost": flags.max_cost, "progress": progress}
            if batch_size:
                run = ask_in_batches(total, question_of, endpoint, store, most=batch_size, **options)
            else:
                options |= {"retry_refused": flags.retry_refused, "patience": Patience(flags.give_up_after, reject)}
                run = ask_all(total, question_of, endpoint, store, **options)
        yield run, store
