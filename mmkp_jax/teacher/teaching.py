"""What a teacher is asked about posts, and what is made of its answers: chains, or keyphrases, and why not."""

import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmkp_jax.data.numbered import Numbered
from mmkp_jax.data.posts import Post, Record
from mmkp_jax.errors import InputError
from mmkp_jax.runtime.atomic import replacing
from mmkp_jax.runtime.escape import for_utf8
from mmkp_jax.runtime.json_files import is_number
from mmkp_jax.teacher.answers import content_of, one_line, row_verdict, usage_in
from mmkp_jax.teacher.chains import Gates, Rejected, read_keyphrases
from mmkp_jax.teacher.endpoint import Endpoint
from mmkp_jax.teacher.progress import AskState, Rejector, commonest
from mmkp_jax.teacher.questions import IMAGE_EDGE, Question, QuestionOf, ask_about
from mmkp_jax.teacher.store import Store
from mmkp_jax.teacher.templates import CLEAN, DEDUCE, EXPLAIN, Template

Task = Literal["chains", "keyphrases"]
MAX_NAME = 80
"""Characters of a model's name."""
FIELDS = ("keyphrases", "text", "image")
"""Of a teacher's template."""


@dataclass(frozen=True)
class Job:
    """What is asked about each post, and what becomes of the answer."""

    endpoint: Endpoint
    template: Template
    task: Task = "chains"
    gates: Gates = field(default_factory=Gates)
    """Of chains."""
    image_edge: int = IMAGE_EDGE

    def question_of(self, records: Numbered[Record]) -> QuestionOf:
        """The question about a record, by number."""

        def question(number: int) -> Question:
            record = records[number]
            values = {"keyphrases": "; ".join(record.keyphrases), "text": record.text}
            return ask_about(record, self.template, values, self.endpoint, self.image_edge)

        return question

    def output_row(self, answer: str, record: Record, image: str | None) -> dict[str, Any]:
        """The line that an answer gives: a chain, for `prepare --cot`, or a post, for `prepare --raw`.

        Args:
            image: the path of the post's image.

        Raises:
            Rejected: it gives none.
        """
        if self.task == "chains":
            return {"id": record.id, "cot": self.gates.chain(answer, record)}
        keyphrases = read_keyphrases(answer)
        return {"id": record.id, "text": record.text, "image": image, "keyphrases": keyphrases, "cot": record.cot}


def default_template(task: Task, answer_hidden: bool) -> Template:
    """The prompt that is used where none is given."""
    if task == "keyphrases":
        return CLEAN
    return DEDUCE if answer_hidden else EXPLAIN


@dataclass
class TeachingOutcome:
    """What became of the posts: kept + left out = posts."""

    posts: int
    kept: int = 0
    answers: int = 0
    """Posts that the endpoint gave a whole answer for, kept or not."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Posts by what held them back: a gate, or the endpoint's own word."""
    words: list[int] = field(default_factory=list)
    """Of each kept chain."""
    models: Counter[str] = field(default_factory=Counter)
    """As the answers name them."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unpriced: int = 0
    """Answers whose cost is not known."""
    times: tuple[str, str] = ("", "")
    """When the first and the last answer came, UTC; empty without one."""
    stopped: str = ""
    """Why not all questions were asked, if they were not."""
    reasons: list[tuple[str, str]] = field(default_factory=list)
    """Of posts that were left out before any was kept: what held each back, and how it says so."""

    def why_nothing(self) -> str:
        """Why nothing was kept of the posts that there are; empty where something was."""
        if self.kept or not self.reasons:
            return ""
        return f"nothing was kept of {self.posts:,} posts, {commonest(self.reasons)}"

    @property
    def acceptance(self) -> float:
        """The share of whole answers that were kept."""
        return self.kept / self.answers if self.answers else 0.0

    def charge(self, row: Mapping[str, Any]) -> None:
        """Counts a row of the store."""
        if row["answer"] is None:
            return
        model = row["answer"].get("model")
        self.models[one_line(model)[:MAX_NAME] if isinstance(model, str) else "unnamed"] += 1
        usage, cost = usage_in(row), row["cost"]
        if usage:
            self.prompt_tokens += usage.prompt
            self.completion_tokens += usage.completion
        known = usage is not None and is_number(cost)
        self.cost += cost if known else 0.0
        self.unpriced += not known
        (first, last), time = self.times, one_line(str(row.get("time") or ""))
        self.times = min(first or time, time), max(last, time)


def answer_rejector(job: Job, records: Numbered[Record]) -> Rejector:
    """Why an answer about a record gives nothing: the gate, or the endpoint's own word, and the reason."""

    def reject(number: int, row: Mapping[str, Any]) -> tuple[str, str] | None:
        try:
            job.output_row(_content(row), records[number], None)
        except Rejected as error:
            return error.gate, str(error)
        return None

    return reject


def rejects_file(out: Path) -> Path:
    """Where the posts are listed that gave nothing, each with the reason."""
    return out.with_name(f"{out.stem}.rejects.jsonl")


def write_results(
    out: Path, job: Job, records: Numbered[Record], run: AskState, store: Store, posts: list[Post] | None = None
) -> TeachingOutcome:
    """Writes what the answers give, in the posts' order, and what is left out; both files whole or not at all.

    Args:
        posts: the records' own, whose paths of images are repeated.

    Raises:
        InputError: a file cannot be written.
    """
    outcome, charged = TeachingOutcome(len(records), stopped=run.stopped), set()
    try:
        with contextlib.ExitStack() as stack:
            kept, left_out = (stack.enter_context(replacing(file)) for file in (out, rejects_file(out)))
            for number in range(len(records)):
                record, key = records[number], run.keys.get(number)
                row = store.get(key)
                if row and key not in charged:
                    charged.add(key)
                    outcome.charge(row)
                try:
                    answer = _answer(row, run, number)
                    outcome.answers += 1
                    made = job.output_row(answer, record, posts[number].image if posts else None)
                except Rejected as error:
                    outcome.left_out[error.gate] += 1
                    if not outcome.kept:
                        outcome.reasons.append((error.gate, str(error)))
                    left_out.write(_line({"id": record.id, "gate": error.gate, "reason": str(error)}))
                else:
                    outcome.kept += 1
                    if job.task == "chains":
                        outcome.words.append(len(made["cot"].split()))
                    kept.write(_line(made))
    except OSError as error:
        hint = "check space and permissions; the same command continues"
        raise InputError(f"this cannot be written ({error.strerror})", str(out), hint) from error
    return outcome


def _answer(row: Mapping[str, Any] | None, run: AskState, number: int) -> str:
    if number in run.unaskable:
        raise Rejected("image", run.unaskable[number])
    if row is None:
        raise Rejected("unanswered", run.unavailable.get(number) or run.stopped)
    return _content(row)


def _content(row: Mapping[str, Any]) -> str:
    status, reason = row_verdict(row)
    if status != "answered":
        raise Rejected(status, reason)
    return content_of(row)


def _line(row: dict[str, Any]) -> bytes:
    return for_utf8(json.dumps(row, ensure_ascii=False) + "\n").encode()
