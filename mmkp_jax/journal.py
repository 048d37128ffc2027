"""A file of predictions that is written as they come, goes on after an interruption, and ends in the posts' order."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.predictions import Prediction, write_predictions


class Journal:
    """The predictions of a list of posts, in `out` or, where that is to have CMKP's form, in `out`.jsonl until the end.

    Attributes:
        found: the predictions that are there, by the number of their post.
    """

    def __init__(self, out: Path, ids: Sequence[str]):
        """Takes up what an interrupted run left.

        Raises:
            InputError: there is no such folder, or the file is whole already, of other posts, or something else.
        """
        self._out, self._posts = out, len(ids)
        self._file = out if out.suffix == ".jsonl" else out.with_name(f"{out.name}.jsonl")
        if not out.parent.is_dir():
            raise InputError("there is no such folder", str(out.parent), "make it, or name another --out")
        if out.is_dir() or (out != self._file and out.exists()):
            raise InputError("this is there already", str(out), "name another --out, or remove it")
        self.found: dict[int, Prediction] = {}
        if self._file.exists():
            whole = self._take_up({each: number for number, each in enumerate(ids)})
            with self._file.open("r+b") as lines:
                lines.truncate(whole)  # a line that was cut off is written again

    def _take_up(self, number_of: dict[str, int]) -> int:
        """Reads whole lines into `found`; returns their bytes."""
        whole = 0
        for place, line in enumerate(self._file.read_bytes().splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                break
            prediction = _prediction_of(line)
            if prediction is None:
                mend = "name another --out, or remove it"
                raise InputError("this line is no prediction", f"{self._file}:{place}", mend)
            if prediction.id not in number_of:
                what = f"it holds a prediction of {prediction.id!r}, which is not among these posts"
                raise InputError(what, f"{self._file}:{place}", "name another --out, or remove it")
            self.found[number_of[prediction.id]] = prediction
            whole += len(line)
        return whole

    def write(self, predictions: Iterator[tuple[int, Prediction]]) -> Iterator[tuple[int, Prediction]]:
        """Hands each on when its line is on the disk, and puts the file in order after the last."""
        try:
            with self._file.open("a", encoding="utf-8") as lines:
                for number, prediction in predictions:
                    lines.write(prediction.line())
                    lines.flush()
                    self.found[number] = prediction
                    yield number, prediction
            write_predictions(self._out, [self.found[number] for number in range(self._posts)])
            if self._file != self._out:
                self._file.unlink()
        except OSError as error:
            mend = "see to space and permissions; the same command goes on from there"
            raise InputError(f"this cannot be written ({error.strerror})", str(self._file), mend) from error


def _prediction_of(line: bytes) -> Prediction | None:
    try:
        row: dict[str, Any] = json.loads(line)
        return Prediction(**row | {"outputs": tuple(row.get("outputs", ()))})
    except (ValueError, TypeError, AttributeError):
        return None
