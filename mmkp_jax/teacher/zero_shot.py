"""Predictions of a model behind an endpoint, with a local model's prompt."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmkp_jax.data.posts import Record, Reject
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.outputs import parse_output
from mmkp_jax.evaluation.predictions import Prediction
from mmkp_jax.teacher.answers import content_of, row_verdict, usage_in
from mmkp_jax.teacher.chains import after_thought
from mmkp_jax.teacher.endpoint import Endpoint
from mmkp_jax.teacher.progress import AskState
from mmkp_jax.teacher.questions import Question, QuestionOf, Unaskable, ask_about
from mmkp_jax.teacher.store import Store
from mmkp_jax.teacher.templates import ZERO_SHOT, Template

ReadPost = Callable[[int], Record | Reject]
"""Reads a post by its number; called in several threads."""


def prediction_questions(
    read: ReadPost, endpoint: Endpoint, image_edge: int, template: Template = ZERO_SHOT
) -> QuestionOf:
    """Returns the function that builds the question about a post, by number, with one of `templates.PROMPTS`."""

    def question(number: int) -> Question:
        row = read(number)
        if isinstance(row, Reject):
            raise Unaskable(row.reason)
        return ask_about(row, template, {"text": row.text}, endpoint, image_edge)

    return question


def predictions_of(
    ids: Sequence[str], read: ReadPost, run: AskState, store: Store
) -> tuple[list[Prediction], list[tuple[str, str]], list[tuple[str, str]]]:
    """Returns the predictions in the posts' order, and (id, reason) of two kinds of empty ones: posts that could not be
    sent, and posts without a complete answer (refused, declined, filtered or cut). `tokens` of a prediction are the
    answer's as the endpoint counts them, 0 where it does not.

    Raises:
        InputError: some posts have no answer yet, but may get one.
    """
    if left := len(ids) - run.found - run.asked - len(run.unaskable):
        reason = next(iter(run.unavailable.values()), "they were not asked about")
        what = f"{left:,} of {len(ids):,} posts have no answer yet ({reason})"
        raise InputError(what, str(store.file), "the same command continues from the stored answers")
    predictions, unfed, unanswered = [], [], []
    for number, post in enumerate(ids):
        keyphrases, row = _keyphrases(read(number)), store.get(run.keys.get(number))
        status, reason = ("", "") if number in run.unaskable else row_verdict(row)
        if status != "answered":
            if number in run.unaskable:
                unfed.append((post, run.unaskable[number]))
            else:
                unanswered.append((post, reason))
            predictions.append(Prediction(post, keyphrases, [], "", "broken", 0))
            continue
        output = content_of(row)
        predicted, form = parse_output(after_thought(output))
        usage = usage_in(row)
        tokens = usage.completion if usage else 0
        predictions.append(Prediction(post, keyphrases, predicted, output, form, tokens))
    return predictions, unfed, unanswered


def why_no_prediction(number: int, row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Returns why an answer gives no prediction, as (kind, reason); None where it gives one."""
    status, reason = row_verdict(row)
    if status != "answered":
        return status, reason
    predicted, _ = parse_output(after_thought(content_of(row)))
    return None if predicted else ("unreadable", "no keyphrases can be read from the answer")


def _keyphrases(row: Record | Reject) -> list[str]:
    if isinstance(row, Record):
        return list(row.keyphrases)
    return list(row.post.keyphrases) if row.post else []
