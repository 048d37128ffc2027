"""Predictions files: one line a post, as JSON Lines or in CMKP's form."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mmkp_jax.data.prompts import MODES, Mode
from mmkp_jax.evaluation.outputs import FORMS
from mmkp_jax.runtime.atomic import write_bytes
from mmkp_jax.runtime.json_files import Fields, is_number


class PhraseScores(NamedTuple):
    """Log-probabilities of the predicted keyphrases, in nats, one of each `Prediction.predicted`.

    They are the model's own, whatever tokens were sampled with, of the tokens that a keyphrase is written with where
    it is written first: given all that is before it (and the mode `direct`), and without what ends it.
    """

    logprob: tuple[float, ...]
    """Sum over the tokens."""
    mean_logprob: tuple[float, ...]
    """Mean over the tokens."""


class Prediction(NamedTuple):
    """One line of a predictions file (`.jsonl`).

    With several samples a post, `output`, `form` and `tokens` are the first one's, and `predicted` holds the keyphrases
    of all, those of more samples first.
    """

    id: str
    keyphrases: list[str]
    predicted: list[str]
    output: str
    form: str
    tokens: int
    outputs: tuple[str, ...] = ()
    """The outputs of all samples if there are several; else the line does not have this field."""
    think: float | None = None
    """Probability of a chain of thought after the prompt; without the field where it was not measured."""
    mode: Mode = "auto"
    """Whether the answer had to begin with a chain of thought (`think`) or without (`direct`); no field for `auto`."""
    scores: PhraseScores | None = None
    """None, and not in the line, where they are not known: of several samples, or from an endpoint."""

    def line(self) -> str:
        """The prediction as a line of JSON; lone surrogates, which UTF-8 cannot encode, are escaped."""
        absent = {"outputs": (), "think": None, "mode": "auto", "scores": None}
        row = self._replace(scores=self.scores and self.scores._asdict())._asdict()
        row = {name: value for name, value in row.items() if name not in absent or value != absent[name]}
        return encodable(json.dumps(row, ensure_ascii=False)) + "\n"


def prediction_of(row: Fields) -> Prediction:
    """The prediction in a line of a predictions file.

    Raises:
        InputError: a field is missing or of another type.
    """
    if row.text("form") not in FORMS:
        row.refuse("form", f"one of {', '.join(FORMS)}")
    return Prediction(
        row.text("id"),
        row.texts("keyphrases"),
        row.texts("predicted"),
        row.text("output"),
        row.text("form"),
        row.integer("tokens", 0),
        tuple(row.texts("outputs", ())),
        think=read_think(row),
        mode=read_mode(row),
        scores=phrase_scores_of(row),
    )


def read_think(row: Fields) -> float | None:
    """The probability of a chain of thought in a line of a predictions file; None where it was not measured."""
    if row.content.get("think") is None:
        return None
    if not 0 <= (found := row.number("think")) <= 1:
        row.refuse("think", "a probability")
    return found


def read_mode(row: Fields) -> Mode:
    """The mode in a line of a predictions file."""
    found = row.text("mode", "auto")
    return found if found in MODES else row.refuse("mode", f"one of {', '.join(MODES)}")


def phrase_scores_of(row: Fields) -> PhraseScores | None:
    """The scores in a line of a predictions file; None if it has none.

    Raises:
        InputError: they are not a log-probability for each keyphrase of `predicted`.
    """
    if "scores" not in row.content:
        return None
    scores, count = row.object("scores"), len(row.texts("predicted"))
    found = []
    for name in PhraseScores._fields:
        values = scores.content.get(name)
        if (
            not isinstance(values, list)
            or len(values) != count
            or not all(is_number(each) and each <= 0 for each in values)
        ):
            scores.refuse(name, f"a list of {count} numbers of at most 0, one for each predicted keyphrase")
        found.append(tuple(values))
    return PhraseScores(*found)


def all_logprobs(
    scores: Sequence[PhraseScores | None], predicted: Sequence[Sequence[str]]
) -> list[Sequence[float]] | None:
    """The log-probabilities of all posts' predictions; None if a post with predictions, or every post, has none."""
    if not any(scores) or any(phrases and not each for phrases, each in zip(predicted, scores, strict=True)):
        return None
    return [each.logprob if each else () for each in scores]


def write_predictions(file: Path, predictions: Sequence[Prediction]) -> None:
    """Writes a predictions file atomically: JSON Lines (`.jsonl`), else CMKP's form, one `kp;kp` a line."""
    line_of = Prediction.line if file.suffix == ".jsonl" else _cmkp_line
    lines = map(line_of, predictions)
    write_bytes(file, "".join(lines).encode("utf-8"))


def _cmkp_line(prediction: Prediction) -> str:
    return encodable(" ".join(";".join(prediction.predicted).splitlines())) + "\n"


def encodable(text: str) -> str:
    """The text with lone surrogates escaped (`\\\\ud800`), as JSON escapes them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
