"""Store of answers: an append-only JSON Lines file, written before anything uses an answer."""

import asyncio
import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.json_files import is_number
from mmkp_jax.teacher.answers import is_implausible, most_of, usage_in
from mmkp_jax.teacher.cost import Usage
from mmkp_jax.teacher.repair import DamagedLine, lines_in, repair_file

HINT = "check free space and permissions; the same command continues"


def answers_file(out: Path) -> Path:
    """Default path of the answers that the file `out` is made from, next to it."""
    return out.with_name(f"{out.stem}.answers.jsonl")


class Store:
    """Answers by key; only one process at a time can open a store.

    A row is a JSON object: `id` (of the post), `key`, `asked` (the key's content: model, parameters, and hashes
    of prompt, text and image), `status` (`answered`, or the kind of failure), `reason`, `answer` (the body as it
    came), `usage`, `most` (tokens that it may have taken), `cost`, `finish_reason`, `attempt`, `time` (UTC). Rows with
    `batch` belong to the Batch API. Others hold a key: `out`, a call that was started; `lost`, one that failed and may
    have been charged; `uncharged`, one that was not charged. Calls in flight at a kill count as lost.

    Memory holds only a file offset for each key.

    Attributes:
        spent: known cost of all answers.
        unpriced: answers of unknown cost.
        unpriced_tokens: the most tokens that those answers and the lost calls took.
        repaired: damaged lines that were moved out at opening.
        killed: calls in flight when an earlier command was killed.
        implausible: answers with an implausible usage.
        answer_limits: the different values of the most answer tokens among all answers.
        refused: keys of requests that the endpoint refused.
        batches: state of each batch that was not collected, by name.
    """

    def __init__(self, file: Path, *, repair: bool = False):
        """Opens the file, or creates it.

        Args:
            repair: move damaged lines to a file next to it (`repair.damaged_file`), and keep all others.

        Raises:
            InputError: it cannot be used, another process uses it, or a line is damaged.
        """
        self.file = file
        self.repaired = 0
        self._forget()
        self._waiting: list[tuple[bytes, dict[str, Any]]] = []
        self._written = self._added = 0
        self._lock, self._writing, self._failed = asyncio.Lock(), threading.Lock(), None
        try:
            self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                self._take_lock()
                self._size = self._load(repair)
            except BaseException:
                os.close(self._file)  # and with it the lock
                raise
        except BlockingIOError:
            raise InputError("another command uses it now", str(file), "wait for that command to end") from None
        except OSError as error:
            raise self._unwritable(error) from error

    def _forget(self) -> None:
        self.spent, self.unpriced, self.unpriced_tokens = 0.0, 0, Usage(0, 0)
        self.killed = self.implausible = 0
        self.answer_limits: set[int] = set()
        self.refused: set[str] = set()
        self.batches: dict[str, dict[str, Any]] = {}
        self._place: dict[str, int] = {}
        self._out: dict[str, Usage] = {}

    def _take_lock(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(self._file).st_ino != os.stat(self.file).st_ino:  # a repair has just replaced the file
            raise BlockingIOError

    def _load(self, repair: bool) -> int:
        """Reads the file; returns the size of its complete lines in bytes."""
        try:
            size = self._read()
        except DamagedLine as damage:
            if not repair:
                raise damage.error(self.file) from None
            self._forget()
            self._file, self.repaired = repair_file(self._file, self.file, is_row)
            size = self._read()
        for most in self._out.values():
            self._owe(most)
        self.killed += len(self._out)
        self._out.clear()
        return size

    def _read(self) -> int:
        size = 0
        for line in lines_in(self._file):
            if not line.complete:
                os.truncate(self._file, size)  # a line that a kill cut off was not yet counted on
                break
            if line.row is None or not is_row(line.row):
                raise DamagedLine(line.number)
            self._record(line.row, size)
            size = line.end
        return size

    def _record(self, row: dict[str, Any], place: int) -> None:
        if "batch" in row:
            known = self.batches.pop(row["batch"], {}) | row
            if known["state"] != "collected":
                self.batches[row["batch"]] = known
            return
        if (key := row.get("out")) is not None:
            if key in self._out:  # left by a killed command
                self._owe(self._out[key])
                self.killed += 1
            self._out[key] = most_of(row)
            return
        if (key := row.get("uncharged")) is not None:
            self._out.pop(key, None)
            return
        usage, cost = usage_in(row), row.get("cost")
        known = is_number(cost) and cost >= 0 and usage is not None
        if (key := row.get("lost")) is not None:
            self._out.pop(key, None)
            self._count(row, usage, known)
            return
        self._out.pop(row["key"], None)
        self._place[row["key"]] = place
        (self.refused.add if row["answer"] is None else self.refused.discard)(row["key"])
        self.implausible += is_implausible(row)
        most = most_of(row)
        if row["answer"] is None and usage is None and "note" not in row:
            return  # a refusal, which was not charged
        self.unpriced += not known
        self._count(row, usage, known)
        if row["answer"] is not None and most:
            self.answer_limits.add(most.completion)

    def _count(self, row: dict[str, Any], usage: Usage | None, known: bool) -> None:
        if known:
            self.spent += row["cost"]
        else:
            self._owe(usage or most_of(row))

    def _owe(self, tokens: Usage | None) -> None:
        if tokens:
            prompt, completion = self.unpriced_tokens
            self.unpriced_tokens = Usage(prompt + tokens.prompt, completion + tokens.completion)

    def __contains__(self, key: str) -> bool:
        return key in self._place

    def __len__(self) -> int:
        return len(self._place)

    def get(self, key: str | None) -> dict[str, Any] | None:
        """Returns the last row of a key; None where there is none."""
        if key not in self._place:
            return None
        with self.file.open("rb") as lines:
            lines.seek(self._place[key])
            return json.loads(lines.readline())

    async def add(self, row: dict[str, Any]) -> None:
        """Writes a row, and returns when it is on the disk; concurrent rows are written together.

        Raises:
            InputError: it cannot be written.
        """
        self._waiting.append((encoded(row), row))
        self._added += 1
        mine = self._added
        async with self._lock:
            if self._failed:
                raise self._failed
            if self._written >= mine:
                return
            waiting, self._waiting = self._waiting, []
            lines = b"".join(line for line, _ in waiting)
            writing = asyncio.ensure_future(asyncio.to_thread(self._write, lines))
            cancelled: asyncio.CancelledError | None = None
            while not writing.done():  # a write in progress ends, and is recorded, even when its caller is cancelled
                try:
                    await asyncio.wait([writing])
                except asyncio.CancelledError as error:
                    cancelled = error
            try:
                place = writing.result()
            except OSError as error:
                self._failed = self._unwritable(error)
                raise self._failed from error
            for line, each in waiting:
                self._record(each, place)
                place += len(line)
            self._written += len(waiting)
            if cancelled:
                raise cancelled

    def begin(self, key: str, post: str, most: Usage) -> None:
        """Records the start of a call; until its end is recorded, it counts as lost after a kill."""
        if key not in self._out:
            self._mark({"out": key, "id": post, "most": most._asdict()})

    def release(self, key: str) -> None:
        """Records that a call ended without being charged."""
        if key in self._out:
            self._mark({"uncharged": key})

    def _mark(self, row: dict[str, Any]) -> None:
        """Writes a row without waiting for the disk: it survives a kill of this process, not of the machine."""
        if self._failed:
            raise self._failed
        try:
            place = self._append(encoded(row))
        except OSError as error:
            self._failed = self._unwritable(error)
            raise self._failed from error
        self._record(row, place)

    def _write(self, lines: bytes) -> int:
        place = self._append(lines)
        os.fsync(self._file)
        return place

    def _append(self, lines: bytes) -> int:
        """Appends lines to the file; returns their offset."""
        with self._writing:
            place, left = self._size, lines
            try:
                while left:
                    left = left[os.write(self._file, left) :]
            except OSError:
                os.truncate(self._file, place)  # no half line
                raise
            self._size += len(lines)
            return place

    def close(self) -> None:
        """Closes the file, and releases its lock."""
        os.close(self._file)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"answers cannot be stored here ({error.strerror})", str(self.file), HINT)


def encoded(row: dict[str, Any]) -> bytes:
    """Encodes a row as a line; lone surrogates stay as JSON escapes."""
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def is_row(row: dict[str, Any]) -> bool:
    """Whether an object is a valid row of a store, in every field that is read."""
    if "batch" in row:
        requests = row.get("requests", {})
        return (
            isinstance(row["batch"], str)
            and row.get("state") in ("intended", "submitted", "collected")
            and (row["state"] != "submitted" or isinstance(row.get("id"), str))
            and isinstance(requests, dict)
            and all(map(_is_request, requests.values()))
        )
    for name in ("out", "lost", "uncharged"):
        if name in row:
            return isinstance(row[name], str) and (name == "uncharged" or most_of(row) is not None)
    return (
        isinstance(row.get("key"), str) and {"answer", "cost"} <= row.keys() and isinstance(row["answer"], dict | None)
    )


def _is_request(request: Any) -> bool:
    return (
        isinstance(request, dict)
        and isinstance(request.get("id"), str)
        and isinstance(request.get("asked"), dict)
        and most_of(request) is not None
    )
