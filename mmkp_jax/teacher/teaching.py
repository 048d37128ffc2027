"""Jobs of a teacher: the question about each post, and the chains, keyphrases or rejects from its answers."""

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
"""Most characters of a model's name."""
FIELDS = ("keyphrases", "text", "image")
"""Fields of a teacher's template."""


@dataclass(frozen=True)
class Job:
    """A teacher's task: the question about each post, and the line that its answer gives."""

    endpoint: Endpoint
    template: Template
    task: Task = "chains"
    gates: Gates = field(default_factory=Gates)
    """Conditions of --task=chains."""
    image_edge: int = IMAGE_EDGE

    def question_of(self, records: Numbered[Record]) -> QuestionOf:
        """Returns the function that builds the question about a record, by number."""

        def question(number: int) -> Question:
            record = records[number]
            values = {"keyphrases": "; ".join(record.keyphrases), "text": record.text}
            return ask_about(record, self.template, values, self.endpoint, self.image_edge)

        return question

    def output_row(self, answer: str, record: Record, image: str | None) -> dict[str, Any]:
        """Returns an answer's line: a chain, for `prepare --cot`, or a post, for `prepare --raw`.

        Args:
            image: path of the post's image.

        Raises:
            Rejected: the answer gives none.
        """
        if self.task == "chains":
            return {"id": record.id, "cot": self.gates.chain(answer, record)}
        keyphrases = read_keyphrases(answer)
        return {"id": record.id, "text": record.text, "image": image, "keyphrases": keyphrases, "cot": record.cot}


def default_template(task: Task, answer_hidden: bool) -> Template:
    """The prompt for a task without --template."""
    if task == "keyphrases":
        return CLEAN
    return DEDUCE if answer_hidden else EXPLAIN


@dataclass
class TeachingOutcome:
    """Counts and costs of a job: kept + left out = posts."""

    posts: int
    kept: int = 0
    answers: int = 0
    """Posts with a complete answer, kept or not."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Posts left out, by gate or by the endpoint's status."""
    words: list[int] = field(default_factory=list)
    """Words of each kept chain."""
    models: Counter[str] = field(default_factory=Counter)
    """Answers by the model's name in them."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unpriced: int = 0
    """Answers of unknown cost."""
    times: tuple[str, str] = ("", "")
    """Times of the first and the last answer, UTC; empty without answers."""
    stopped: str = ""
    """Why not all questions were asked, if they were not."""
    reasons: list[tuple[str, str]] = field(default_factory=list)
    """(gate, reason) of each post left out before any was kept."""

    def why_nothing(self) -> str:
        """The line on why no post was kept; empty if one was."""
        if self.kept or not self.reasons:
            return ""
        return f"nothing was kept of {self.posts:,} posts, {commonest(self.reasons)}"

    @property
    def acceptance(self) -> float:
        """Share of complete answers that were kept."""
        return self.kept / self.answers if self.answers else 0.0

    def charge(self, row: Mapping[str, Any]) -> None:
        """Adds a row of the store to the counts."""
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
    """Returns the function that gives (gate or status, reason) of a rejected answer."""

    def reject(number: int, row: Mapping[str, Any]) -> tuple[str, str] | None:
        try:
            job.output_row(_content(row), records[number], None)
        except Rejected as error:
            return error.gate, str(error)
        return None

    return reject


def rejects_file(out: Path) -> Path:
    """Path of the list of posts left out, with reasons, next to the file `out`."""
    return out.with_name(f"{out.stem}.rejects.jsonl")


def write_results(
    out: Path, job: Job, records: Numbered[Record], run: AskState, store: Store, posts: list[Post] | None = None
) -> TeachingOutcome:
    """Writes the lines that the answers give, in the posts' order, and the posts left out; both files atomically.

    Args:
        posts: the records' posts, for the paths of their images.

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
        hint = "check free space and permissions; the same command continues"
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
