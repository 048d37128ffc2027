"""Zero-shot predictions of a model behind an endpoint, by the prompt that a local model gets."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from mmkp_jax.data.posts import Record, Reject
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.outputs import parse_output
from mmkp_jax.teacher.asking import Run, ask_all, content_of
from mmkp_jax.teacher.client import Endpoint, Limits
from mmkp_jax.teacher.cost import Prices
from mmkp_jax.teacher.questions import IMAGE_EDGE, Question, Unaskable, ask_about
from mmkp_jax.teacher.store import Store
from mmkp_jax.teacher.templates import ZERO_SHOT


class Rows(Protocol):
    """Posts by number; read in threads, and more than once."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Record | Reject: ...


class Predicted(NamedTuple):
    """The fields of a line in a predictions file, in their order there."""

    id: str
    keyphrases: list[str]
    predicted: list[str]
    output: str
    form: str
    tokens: int
    """Of the answer, as the endpoint counts them; 0 where it does not."""


def predict_through_endpoint(
    rows: Rows,
    endpoint: Endpoint,
    store: Store,
    *,
    limits: Limits = Limits(),  # noqa: B008, as it is frozen
    prices: Prices = Prices(),  # noqa: B008
    max_cost: float | None = None,
    retry_refused: bool = False,
    image_edge: int = IMAGE_EDGE,
    progress: Callable[[Run], None] = lambda run: None,
    unfed: Callable[[str, str], None] = lambda post, reason: None,
) -> Iterator[Predicted]:
    """The prediction for every post, in their order; all are asked for before the first one comes.

    Args:
        unfed: is told the id of each post that has no answer, whose prediction is empty, and the reason.

    Raises:
        InputError: as `ask_all`, or some posts have no answer yet: the same call goes on.
    """

    def question_of(number: int) -> Question:
        row = rows[number]
        if isinstance(row, Reject):
            raise Unaskable(row.reason)
        return ask_about(row, ZERO_SHOT, {"text": row.text}, endpoint, image_edge)

    run = ask_all(
        len(rows),
        question_of,
        endpoint,
        store,
        limits=limits,
        prices=prices,
        max_cost=max_cost,
        retry_refused=retry_refused,
        progress=progress,
    )
    left = len(rows) - run.found - run.asked - len(run.unaskable)
    if left:
        reason = run.stopped or next(iter(run.unavailable.values()))
        what = f"{left:,} of {len(rows):,} posts have no answer yet ({reason})"
        raise InputError(what, endpoint.base_url, "the same command goes on from the answers in the store")
    for number in range(len(rows)):
        row = rows[number]
        answer = store.get(run.keys.get(number))
        if number in run.unaskable or answer["status"] != "answered":
            unfed(row.id, run.unaskable.get(number) or answer["reason"])
            yield Predicted(row.id, list(_keyphrases(row)), [], "", "broken", 0)
            continue
        output = content_of(answer)
        predicted, form = parse_output(output)
        tokens = answer["usage"]["completion"] if answer["usage"] else 0
        yield Predicted(row.id, list(_keyphrases(row)), predicted, output, form, tokens)


def _keyphrases(row: Record | Reject) -> tuple[str, ...]:
    if isinstance(row, Record):
        return row.keyphrases
    return row.post.keyphrases if row.post else ()
