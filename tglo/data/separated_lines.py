"""The rows of a file of separated values in chunks of whole rows, if every reader of CSV takes them alike."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tglo.data.row_blocks import Unusual

_CHUNK = 2**22  # bytes that are read at once
_BOM = b"\xef\xbb\xbf"
_QUOTE, _NEWLINE, _RETURN = b'"\n\r'


class Chunk(NamedTuple):
    """Consecutive rows, blank lines among them."""

    data: bytes
    lines: NDArray[np.int64]
    """On which line of the file each row begins, from 1, blank ones apart."""
    broken: bool
    """Whether there are line breaks in quotes."""


def row_chunks(path: Path, separator: str) -> Iterator[Chunk]:
    """Yield the rows of a file; Unusual for one that readers may take in several ways.

    Taken alike are rows that end in LF or CRLF, blank or not, and fields in quotes as a whole, with inner quotes
    doubled, or free of quotes. Nothing is said of the number of fields or of the encoding.
    """
    base, rest = 0, b""
    with open(path, "rb") as file:
        read = file.read(_CHUNK).removeprefix(_BOM)
        while read:
            ahead = file.read(_CHUNK)
            data = rest + read
            end = len(data)
            if ahead:
                end = data.rfind(b"\n") + 1  # so that no CRLF is cut in two
                end = _last_row_end(data[:end])
            yield _chunk(data[:end], base, separator)
            base += data.count(b"\n", 0, end)
            rest, read = data[end:], ahead


def _last_row_end(data: bytes) -> int:
    """Return where the last whole row ends, given that the first begins at 0."""
    end = len(data)
    while end and data.count(b'"', 0, end) % 2:  # a line break in quotes
        end = data.rfind(b"\n", 0, end - 1) + 1
        if len(data) - end > csv.field_size_limit():
            break
    return end


def _chunk(data: bytes, base: int, separator: str) -> Chunk:
    """Return a chunk that begins with a row, after `base` lines."""
    if b"\0" in data or data.count(b"\r") != data.count(b"\r\n"):
        raise Unusual("null bytes, or line breaks of another kind")
    if data.startswith(
        _BOM
    ):  # Arrow leaves it out of each chunk, though only a file's first is no text
        raise Unusual("a row that begins with a byte order mark")
    numbers = np.frombuffer(data, dtype=np.uint8)
    newlines = np.flatnonzero(numbers == _NEWLINE)
    ends = newlines
    if b'"' in data:
        quotes = np.flatnonzero(numbers == _QUOTE)
        if len(quotes) % 2 or not _are_plain(numbers, quotes, ord(separator)):
            raise Unusual("quotes within a field, or one that is not closed")
        ends = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    starts = np.append(0, ends + 1)
    starts = starts[starts < len(data)]
    if np.diff(starts, append=len(data)).max(initial=0) > csv.field_size_limit():
        raise Unusual("a long row, or none that ends")
    starts = starts[(numbers[starts] != _NEWLINE) & (numbers[starts] != _RETURN)]
    lines = base + 1 + np.searchsorted(newlines, starts)
    return Chunk(data, lines, len(ends) < len(newlines))


def _are_plain(data: NDArray[np.uint8], quotes: NDArray[np.int64], separator: int) -> bool:
    """Say whether each quote opens or closes a field, or is one of two in a field."""
    opens, closes = quotes[::2], quotes[1::2] + 1
    before = np.where(opens > 0, data[opens - 1], _NEWLINE)
    after = np.where(closes < len(data), data[np.minimum(closes, len(data) - 1)], _NEWLINE)
    return bool(
        np.isin(before, [separator, _NEWLINE, _QUOTE]).all()
        and np.isin(after, [separator, _NEWLINE, _RETURN, _QUOTE]).all()
    )
