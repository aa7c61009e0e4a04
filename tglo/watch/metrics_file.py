"""metrics.jsonl while it is written: new lines alone are read, and a file that was rewritten is noticed."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tglo.train.reports.metrics import read_line

CHUNK = 2**20  # bytes
_TAIL = 64  # bytes before the place that was read to, compared to notice a rewritten file
NAN = math.nan


class Line(msgspec.Struct, gc=False, rename=lambda name: name.replace("seconds_", "seconds/")):
    """What is watched of a line of metrics.jsonl; nan where a line lacks it."""

    step: float
    epoch: float = NAN
    loss: float = NAN
    r_positive: float = NAN
    r_negative: float = NAN
    implicit_accuracy: float = NAN
    saturated: float = NAN
    policy_error: float = NAN
    reference_error: float = NAN
    positive_share: float = NAN
    gradient_norm: float = NAN
    learning_rate: float = NAN
    temperature: float = NAN
    samples_per_second: float = NAN
    noise_floor: float = NAN
    memory_gib: float = NAN
    seconds_data: float = NAN
    seconds_reference: float = NAN
    seconds_policy: float = NAN
    seconds_loss: float = NAN
    seconds_backward: float = NAN
    seconds_update: float = NAN


COLUMNS: tuple[str, ...] = Line.__struct_fields__
_KEYS: tuple[str, ...] = Line.__struct_encode_fields__
_DECODER = msgspec.json.Decoder(Line)


class MetricsFile:
    """The lines of a metrics.jsonl so far, as a table; `poll` reads what has come since.

    A last line without its end waits for it. A file that became shorter, was replaced (a resumed run
    writes it anew) or has other bytes where it was read to is read again from its start; `generation`
    counts that.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.generation = 0
        self.damaged = 0
        """Lines that are no metrics."""
        self.written: float | None = None
        """When the file was last changed, in seconds since the epoch."""
        self._looked: float | None = None
        self._changed: float | None = None
        self.went_back: tuple[float, float] | None = None
        """Last step before and after the newest rewriting, where steps were taken back."""
        self.problem: str | None = None
        """Why the file cannot be read, where there is one."""
        self._identity: tuple[int, int] | None = None
        self._offset = self._size = self._seen_size = 0
        self._tail = b""
        self._table = np.empty((256, len(COLUMNS)))
        self._lines = 0
        self._before = NAN

    def __len__(self) -> int:
        return self._lines

    def column(self, name: str) -> NDArray[np.float64]:
        """Return a column of all lines; a view."""
        return self._table[: self._lines, COLUMNS.index(name)]

    def last(self, name: str) -> float:
        """Return a column's value in the last line; nan without lines."""
        return float(self.column(name)[-1]) if self._lines else NAN

    def age(self, now: float) -> float:
        """Return the seconds since the file was last changed. now: seconds since the epoch.

        By this process's own watch once it has seen a change, or where the file is dated later than `now`: it may
        lie on a machine whose clock is another.
        """
        if self.written is None or self._looked is None:
            return math.inf
        if self._changed is None and self.written <= now:
            return now - self.written
        return time.monotonic() - (self._looked if self._changed is None else self._changed)

    @property
    def share_read(self) -> float:
        """The share of the file that has been read."""
        return self._offset / self._size if self._size else 1.0

    def poll(self, most: int = 2**62) -> bool:
        """Read new lines, about `most` bytes of them; return whether more are waiting.

        A file that is not there, or cannot be read now, changes nothing.
        """
        try:
            with self.path.open("rb") as file:
                more = self._poll(file, most)
            self.problem = None
            return more
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            self.problem = None if missing else error.strerror
            self._size = self._offset
            return False

    def _poll(self, file: Any, most: int) -> bool:
        found = os.fstat(file.fileno())
        if self._looked is None:
            self._looked = time.monotonic()
        elif found.st_size != self._seen_size:
            self._changed = time.monotonic()
        self._seen_size = self._size = found.st_size
        self.written = found.st_mtime
        if self._rewritten(file, found):
            self._begin_anew((found.st_dev, found.st_ino))
        file.seek(self._offset)
        stop = self._offset + most
        while self._offset < min(self._size, stop):
            chunk = file.read(CHUNK)
            end = chunk.rfind(b"\n") + 1
            if end == 0 and len(chunk) < CHUNK:
                break  # a line that is being written
            self._take(chunk[:end] if end else b"")
            self._advance(chunk[:end] if end else chunk)  # a line of 1 MB is none
            file.seek(self._offset)
        self._note_the_way_back()
        more = self._offset < self._size and self._offset >= stop
        if not more and self._lines == 0:
            self._size = self._offset
        return more

    def _rewritten(self, file: Any, found: os.stat_result) -> bool:
        if self._identity != (found.st_dev, found.st_ino) or found.st_size < self._offset:
            return True
        file.seek(self._offset - len(self._tail))
        return bool(file.read(len(self._tail)) != self._tail)

    def _begin_anew(self, identity: tuple[int, int]) -> None:
        if self._identity is not None:
            self.generation += 1
            self._before = self.last("step")
        self._identity = identity
        self._offset = self._lines = self.damaged = 0
        self._tail = b""

    def _note_the_way_back(self) -> None:
        now = self.last("step")
        if not math.isnan(self._before) and not math.isnan(now):
            self.went_back = (self._before, now) if now < self._before else None
            self._before = NAN

    def _advance(self, read: bytes) -> None:
        self._offset += len(read)
        self._tail = (self._tail + read[-_TAIL:])[-_TAIL:]

    def _take(self, chunk: bytes) -> None:
        try:
            rows = [msgspec.structs.astuple(line) for line in _DECODER.decode_lines(chunk)]
        except (msgspec.DecodeError, UnicodeDecodeError):  # nan is no JSON either
            lines = [line for line in chunk.splitlines() if line.strip()]
            read = [_row(line) for line in lines]
            rows = [row for row in read if row is not None]
            self.damaged += len(read) - len(rows)
        if not rows:
            return
        need = self._lines + len(rows)
        if need > len(self._table):
            table = np.empty((max(need, 2 * len(self._table)), len(COLUMNS)))
            table[: self._lines] = self._table[: self._lines]
            self._table = table
        self._table[self._lines : need] = rows
        self._lines = need


def _row(line: bytes) -> tuple[float, ...] | None:
    """Read one line with patience; None for what is no line of metrics."""
    found = read_line(line)
    if found is None:
        return None
    step, values = found
    return step, *(_number(values.get(key)) for key in _KEYS[1:])


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) else NAN
    except OverflowError:
        return NAN
