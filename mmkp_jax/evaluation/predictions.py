"""A predictions file: a line a post, JSON Lines or CMKP's form."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Prediction(NamedTuple):
    """One line of a predictions file (DESIGN: `.jsonl`).

    Of several answers, `output`, `form` and `tokens` are the first one's, and `predicted` holds the keyphrases of all,
    those of more answers first.
    """

    id: str
    keyphrases: list[str]
    predicted: list[str]
    output: str
    form: str
    tokens: int
    outputs: tuple[str, ...] = ()
    """Every answer's, where there are several; else it is not in the line."""

    def line(self) -> str:
        """The prediction as JSON."""
        row = {name: value for name, value in self._asdict().items() if name != "outputs" or value}
        return json.dumps(row, ensure_ascii=False) + "\n"


def write_predictions(file: Path, predictions: Sequence[Prediction]) -> None:
    """The predictions file, whole or not at all: JSON Lines (`.jsonl`), else CMKP's form, `kp;kp` a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    as_json = file.suffix == ".jsonl"
    lines = (each.line() if as_json else " ".join(";".join(each.predicted).splitlines()) + "\n" for each in predictions)
    part.write_text("".join(lines), encoding="utf-8")
    part.replace(file)
