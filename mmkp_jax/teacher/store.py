"""Every answer on disk before anything is made of it: one file that only grows, JSON Lines."""

import asyncio
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from mmkp_jax.errors import InputError
from mmkp_jax.teacher.cost import Usage

MEND = "name another --store, or remove it"


def answers_file(out: Path) -> Path:
    """Where the answers behind the file `out` are kept, unless another is named: beside it."""
    return out.with_name(f"{out.stem}.answers.jsonl")


class Store:
    """Answers by key; at a time, one process has it open.

    A row is a JSON object: `id` (of the post), `key`, `asked` (what the key is made of: model, parameters, and hashes
    of prompt, text and image), `status` (`answered`, or why the answer is none), `reason`, `answer` (the body as it
    came), `usage`, `most` (tokens that it may have taken), `cost`, `finish_reason`, `attempt`, `time` (UTC). Rows with
    `batch` are the Batch API's; those with `lost`, a key, are of calls that broke off and may have been charged.

    In memory there is but a place in the file for each key.

    Attributes:
        spent: what the answers cost in all, as far as it was known.
        unpriced: answers whose cost is not known.
        unpriced_tokens: the most that those answers and the lost calls took.
        answer_limits: the most tokens that each answer might have, of all that are there.
        refused: keys of requests that the endpoint would not answer, and charged nothing for.
        batches: what is known of each batch that was not collected, by name.
    """

    def __init__(self, file: Path):
        """Opens the file, or makes it.

        Raises:
            InputError: it cannot be used, or another process uses it.
        """
        self.file = file
        self.spent, self.unpriced, self.unpriced_tokens = 0.0, 0, Usage(0, 0)
        self.answer_limits: set[int] = set()
        self.refused: set[str] = set()
        self.batches: dict[str, dict[str, Any]] = {}
        self._place: dict[str, int] = {}
        self._waiting: list[tuple[bytes, dict[str, Any]]] = []
        self._written = self._added = 0
        self._lock, self._failed = asyncio.Lock(), None
        try:
            self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._size = self._take_up()
            os.truncate(self._file, self._size)  # a line that a kill cut off was not yet counted on
        except BlockingIOError:
            raise InputError("another command uses it now", str(file), "let that one end") from None
        except OSError as error:
            raise self._unwritable(error) from error

    def _take_up(self) -> int:
        """Reads what is there; returns the bytes of its whole lines."""
        size = 0
        with self.file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    self._note(json.loads(line), size)
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise InputError("this line is no answer of an endpoint", f"{self.file}:{number}", MEND) from None
                size += len(line)
        return size

    def _note(self, row: dict[str, Any], place: int) -> None:
        if "batch" in row:
            known = self.batches.pop(row["batch"], {}) | row
            if known["state"] != "collected":
                self.batches[row["batch"]] = known
            return
        if "lost" in row:
            self._owe(row["most"])
            return
        self._place[row["key"]] = place
        (self.refused.add if row["answer"] is None else self.refused.discard)(row["key"])
        if row["cost"] is not None:
            self.spent += row["cost"]
        elif row["answer"] is not None:
            self.unpriced += 1
            self._owe(row.get("usage") or row.get("most"))
        if row["answer"] is not None and (most := row.get("most")):
            self.answer_limits.add(most["completion"])

    def _owe(self, tokens: dict[str, int] | None) -> None:
        if tokens:
            prompt, completion = self.unpriced_tokens
            self.unpriced_tokens = Usage(prompt + tokens["prompt"], completion + tokens["completion"])

    def __contains__(self, key: str) -> bool:
        return key in self._place

    def __len__(self) -> int:
        return len(self._place)

    def get(self, key: str | None) -> dict[str, Any] | None:
        """The last row of a key; None where there is none."""
        if key not in self._place:
            return None
        with self.file.open("rb") as lines:
            lines.seek(self._place[key])
            return json.loads(lines.readline())

    async def add(self, row: dict[str, Any]) -> None:
        """Returns when the row is on the disk. Rows that come meanwhile are written together.

        Raises:
            InputError: it cannot be written.
        """
        self._waiting.append((json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n", row))
        self._added += 1
        mine = self._added
        async with self._lock:
            if self._failed:
                raise self._failed
            if self._written >= mine:
                return
            waiting, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._write, b"".join(line for line, _ in waiting))
            except OSError as error:
                self._failed = self._unwritable(error)
                raise self._failed from error
            for line, each in waiting:
                self._note(each, self._size)
                self._size += len(line)
            self._written += len(waiting)

    def _write(self, lines: bytes) -> None:
        try:
            while lines:
                lines = lines[os.write(self._file, lines) :]
            os.fsync(self._file)
        except OSError:
            os.truncate(self._file, self._size)  # no half line
            raise

    def close(self) -> None:
        """Lets another process have it."""
        os.close(self._file)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _unwritable(self, error: OSError) -> InputError:
        mend = "see to space and permissions; the same command goes on"
        return InputError(f"answers cannot be kept here ({error.strerror})", str(self.file), mend)
