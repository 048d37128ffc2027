"""Common steps of every command that asks an endpoint: print the forecast, or get the answers."""

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
"""Exit status of a command that --max_cost stopped: its output is not complete."""
NOTHING = 4
"""Exit status of a command without any usable answer."""


class NothingError(Exception):
    """Raised when no post has a usable answer, though everything was asked and written; says why."""


def print_forecast(flags: argparse.Namespace, total: int, question_of: QuestionOf, endpoint: Endpoint) -> None:
    """Prints what asking for the answers missing from --store would take; sends and writes nothing."""
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
    """Asks all questions; yields the run's state and the store of answers, open until the block ends.

    Args:
        total: questions, numbered from 0.
        reject: returns why an answer is rejected; --give_up_after rejections at the start end the command.
        unit: the progress bar's unit.
        batch_size: most requests in a batch; the Batch API is used where this is given.

    Raises:
        InputError: nothing can be asked, or answers cannot be stored.
        KeyboardInterrupt: after Ctrl-C.
    """
    endpoint.key()  # before anything is opened
    for file in (flags.out, flags.store):
        if not file.parent.is_dir():
            raise InputError("there is no such folder", str(file.parent), "create it, or name another")
    try:
        from mmkp_jax.teacher.asking import ask_all  # here, as only those who ask need the extra
        from mmkp_jax.teacher.batch import ask_in_batches
    except ModuleNotFoundError as error:
        hint = "pip install 'mmkp_jax[teacher]'"
        raise InputError(f"it needs {error.name}, which is not installed", "an endpoint's client", hint) from None
    prices = prices_of(flags)
    with Store(flags.store, repair=flags.repair) as store:
        if store.repaired:
            print(f"{store.repaired:,} damaged lines of {store.file} were moved to {damaged_file(store.file).name}")
        with contextlib.closing(ProgressBar(total, prices, unit)) as progress:
            options = {"limits": limits_of(flags), "prices": prices, "max_cost": flags.max_cost, "progress": progress}
            if batch_size:
                run = ask_in_batches(total, question_of, endpoint, store, most=batch_size, **options)
            else:
                options |= {"retry_refused": flags.retry_refused, "patience": Patience(flags.give_up_after, reject)}
                run = ask_all(total, question_of, endpoint, store, **options)
        yield run, store
