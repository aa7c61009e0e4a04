"""A video as a folder of its frames: one image file each, in the natural order of their names, 2.png before 10.png.

Files with other endings, hidden files and folders in it are left alone. How many frames are a second is said by
the manifest's column `frame_rate`, or by who reads the folder.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from tglo.data.errors import ImageError

FRAME_RATE = "frame_rate"
"""The manifest's column of frames per second, which is read for folders of frames alone."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".gif")
"""Endings of the files that are taken for frames."""
LOWEST_RATE, HIGHEST_RATE = 0.01, 1000.0
_CHUNK = 2**20
Opener = Callable[[str], AbstractContextManager[BufferedIOBase]]


class FrameFolder(io.RawIOBase):
    """The frames of a video. As a file it is their rate, names, sizes and bytes one after another, which is what a
    digest of the video is made of.

    names: of the frames, in order. open_frame: opens one by its name. read_frame: returns its bytes, up to the cap.
    rate: frames per second; None if the manifest does not say it.
    """

    def __init__(
        self,
        names: list[str],
        open_frame: Opener,
        read_frame: Callable[[str], bytes],
        rate: float | None = None,
    ) -> None:
        super().__init__()
        self.names, self.read_frame, self.rate = names, read_frame, rate
        self._open_frame = open_frame
        self._rest, self._chunks = b"", self._everything()

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to the start, the only place that can be gone to."""
        if offset or whence != os.SEEK_SET:
            raise io.UnsupportedOperation("a folder of frames is read from its start")
        self._rest, self._chunks = b"", self._everything()
        return 0

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._chunks, b"")
        part = self._rest[: len(buffer)]
        buffer[: len(part)], self._rest = part, self._rest[len(part) :]
        return len(part)

    def _everything(self) -> Iterator[bytes]:
        yield f"{len(self.names)} frames at {self.rate}\0".encode()
        for name in self.names:
            with self._open_frame(name) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                yield f"{os.path.basename(name)}\0{size}\0".encode()
                while chunk := file.read(_CHUNK):
                    yield chunk


def frame_names(folder: Path) -> list[str]:
    """Return the names of a folder's frames in their order; ImageError if it has none."""
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if is_frame(entry.name) and not entry.is_dir()]
    except OSError as error:
        raise ImageError(f"the folder cannot be read: {error.strerror or error}") from None
    if not found:
        raise ImageError(
            f"it is a folder without frames: a video's folder holds images ({', '.join(SUFFIXES)}) itself, "
            "not in other folders"
        )
    return sorted(found, key=natural)


def is_frame(name: str) -> bool:
    """Say whether a file of a folder is taken for a frame, by its name."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Return a key that sorts the numbers in names by their values."""
    parts = re.split(r"(\d+)", name, flags=re.ASCII)
    return [
        (is_number, int(part) if is_number else 0, "" if is_number else part)
        for number, part in enumerate(parts)
        for is_number in [bool(number % 2)]
    ], name


def has_rate(cells: Mapping[str, Any]) -> bool:
    """Say whether a row's other columns say frames per second, right or wrong."""
    cell = cells.get(FRAME_RATE)
    return cell is not None and cell == cell and not (isinstance(cell, str) and not cell.strip())


def rate_of(cells: Mapping[str, Any]) -> float | None:
    """Return the frames per second that a row's other columns say, None for none; ImageError for what is none."""
    if not has_rate(cells):
        return None
    cell: Any = cells[FRAME_RATE]
    try:
        rate = float(cell)
    except (TypeError, ValueError):
        rate = -1.0
    if isinstance(cell, bool) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise ImageError(
            f"its {FRAME_RATE} is {cell!r}; it must be the frames per second of the folder's frames, from "
            f"{LOWEST_RATE:g} to {HIGHEST_RATE:g}, or empty"
        )
    return rate
