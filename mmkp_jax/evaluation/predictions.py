"""Predictions files: one line a post, as JSON Lines or in CMKP's form."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mmkp_jax.data.prompts import MODES, Mode
from mmkp_jax.evaluation.outputs import FORMS
from mmkp_jax.runtime.atomic import write_bytes
from mmkp_jax.runtime.json_files import Fields


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

    def line(self) -> str:
        """The prediction as a line of JSON; lone surrogates, which UTF-8 cannot encode, are escaped."""
        absent = {"outputs": (), "think": None, "mode": "auto"}
        row = {name: value for name, value in self._asdict().items() if name not in absent or value != absent[name]}
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
