"""A predictions file that is written line by line, resumes after an interruption, and ends in the posts' order."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmkp_jax.data.prompts import Mode
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.predictions import Prediction, prediction_of, write_predictions
from mmkp_jax.runtime.json_files import parse_object
from mmkp_jax.runtime.limits import LINE

HINT = "name another --out, or remove it"
"""The hint for a file that cannot be resumed."""


class ResumablePredictions:
    """The predictions of a list of posts, in `out`; if that has CMKP's form, in `out`.jsonl until they are complete.

    Attributes:
        found: the predictions made so far, by the number of their post.
    """

    def __init__(self, out: Path, ids: Sequence[str], mode: Mode = "auto"):
        """Opens the file, and reads the predictions that an interrupted command left in it.

        Raises:
            InputError: there is no such folder, or the file is complete, of other posts or another mode, or something
                else.
        """
        self._out, self._posts, self._mode = out, len(ids), mode
        if not out.parent.is_dir():
            raise InputError("there is no such folder", str(out.parent), "make it, or name another --out")
        if out.is_dir():
            raise InputError("this is a folder", str(out), "name a file with --out")
        self._file = out if out.suffix == ".jsonl" else out.with_name(f"{out.name}.jsonl")
        if out != self._file and out.exists() and not self._file.exists():
            raise InputError("this file exists already", str(out), HINT)
        self.found: dict[int, Prediction] = {}
        if self._file.exists():
            complete = self._read_complete_lines({each: number for number, each in enumerate(ids)})
            with self._file.open("r+b") as lines:
                lines.truncate(complete)  # a line that was cut off is written again

    def _read_complete_lines(self, number_of: dict[str, int]) -> int:
        """Reads complete lines into `found`; returns their size in bytes."""
        complete, most = 0, LINE.bytes()
        with self._file.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(most + 1), b""), start=1):
                where = f"{self._file}:{number}"
                if not line.endswith(b"\n"):
                    if len(line) > most:
                        raise LINE.error(where)
                    break
                prediction = prediction_of(parse_object(line, where, HINT))
                if prediction.id not in number_of:
                    what = f"it has a prediction of {prediction.id!r}, which is not among these posts"
                    raise InputError(what, where, HINT)
                if prediction.mode != self._mode:
                    what = f"it was predicted with --mode={prediction.mode}, not {self._mode}"
                    raise InputError(what, where, HINT)
                self.found[number_of[prediction.id]] = prediction
                complete += len(line)
        return complete

    def __enter__(self) -> "ResumablePredictions":
        with self._errors():
            self._lines = self._file.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        with self._errors():
            self._lines.close()

    def add(self, number: int, prediction: Prediction) -> None:
        """Writes the line of a post's prediction; to be called within a `with` of this."""
        with self._errors():
            self._lines.write(prediction.line())
            self._lines.flush()
        self.found[number] = prediction

    def finish(self) -> None:
        """Writes the file, which has all predictions, in the posts' order."""
        with self._errors():
            write_predictions(self._out, [self.found[number] for number in range(self._posts)])

    def tidy(self) -> None:
        """Removes what an interrupted command would resume from; there is nothing to resume any more."""
        with self._errors():
            if self._file != self._out:
                self._file.unlink()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "check free space and permissions; the same command resumes from there"
            raise InputError(f"this cannot be written ({error.strerror})", str(self._file), hint) from error


def write_each(
    files: Mapping[Mode, ResumablePredictions], predictions: Iterator[tuple[int, Prediction]]
) -> Iterator[tuple[int, Prediction]]:
    """Yields each prediction once its line is written to its mode's file; sorts the files after the last one.

    What is resumed from is there until all files are complete.
    """
    with contextlib.ExitStack() as opened:
        for file in files.values():
            opened.enter_context(file)
        for number, prediction in predictions:
            files[prediction.mode].add(number, prediction)
            yield number, prediction
    for file in files.values():
        file.finish()
    for file in files.values():
        file.tidy()
