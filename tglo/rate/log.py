"""The log of ratings: a line of JSON for each event, on the disk before the rater's page hears of it.

Lines are appended and never changed. What a crash or a full disk left of a line that nobody was told of is cut
off, and the log ends with its last whole line again.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tglo.files import DamagedFile, append, flush
from tglo.rate.events import Event, clean_name, parse

log = logging.getLogger("tglo")

FILE = "rating-log.jsonl"  # ratings.jsonl in a folder of images would be read with them
VERSION = 1
_START = b'{"tglo_ratings":'


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    """The first line. id: of these ratings, by which a page knows what it has still to send."""

    tglo_ratings: int
    id: str


@dataclass(frozen=True)
class Contents:
    """What a log says. size: bytes of its whole lines. torn: those after them, of a line that has no end."""

    id: str
    events: list[Event]
    size: int
    torn: int = 0


def read_log(path: Path) -> Contents:
    """Read a log; FileNotFoundError where there is none, DamagedFile for a line that is no event.

    A last line without its end is read if it is whole, as an editor may have left it.
    """
    data = path.read_bytes()
    lines = data.split(b"\n")
    tail = lines.pop()
    header, events = None, list[Event]()
    for number, line in enumerate(lines, 1):
        try:
            if header is None:
                header = _header(line)
            elif line.strip():
                events.append(_event(line))
        except ValueError as error:
            raise DamagedFile(
                f"{path}, line {number}: {error}; mend that line, or take it out"
            ) from None
    if tail and header is not None:
        with suppress(ValueError):  # torn
            events.append(_event(tail))
            tail = b""
    elif tail and not (_START + tail[len(_START) :]).startswith(tail):
        raise DamagedFile(f"{path}: this is no log of ratings by tglo; give another --output")
    return Contents(header.id if header else "", events, len(data) - len(tail), len(tail))


def _event(line: bytes) -> Event:
    event: Event = parse(line, Event)
    clean_name(event.rater)
    return event


def _header(line: bytes) -> _Header:
    try:
        header: _Header = parse(line, _Header)
    except ValueError as error:
        raise ValueError(f"this is no log of ratings by tglo ({error})") from None
    if header.tglo_ratings != VERSION:
        raise ValueError(f"it is of version {header.tglo_ratings}, and this tglo reads {VERSION}")
    return header


class RatingLog:
    """A log that is open for appending, in one process at a time. Not for several threads at once."""

    def __init__(self, path: Path) -> None:
        """Open a log, or begin one in a folder that is there; `events` are those that it has already."""
        try:
            found = read_log(path)
        except FileNotFoundError:
            found = Contents("", [], 0)
        self.path, self.id, self.events = path, found.id or secrets.token_hex(8), found.events
        self._size = found.size
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        if found.torn:
            log.warning(
                "%s ends within a line of %d bytes, which was never acknowledged: it is cut off",
                path,
                found.torn,
            )
        if not found.id:
            self._write(msgspec.json.encode(_Header(VERSION, self.id)) + b"\n")
            flush(path.parent)
        elif not _ends_a_line(self._file, found.size):
            self._write(b"\n")

    def append(self, events: Sequence[Event]) -> None:
        """Write events and wait until the disk has them. After an error the log is what it was.

        Raises DiskFull, or another OSError.
        """
        self._write(b"".join(msgspec.json.encode(event) + b"\n" for event in events))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        if not os.fstat(self._file).st_nlink:
            raise FileNotFoundError(
                f"{self.path} was removed while it was in use; start the server again"
            )
        append(self._file, self.path, data, self._size, durable=True)
        self._size += len(data)


def _ends_a_line(file: int, size: int) -> bool:
    return os.pread(file, 1, size - 1) == b"\n"
