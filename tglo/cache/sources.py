"""Whether an image may have changed since it was encoded: by the size and time of its file."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path

from tglo.data.containers import split_reference
from tglo.data.errors import ImageError
from tglo.data.frames import FRAME_RATE, frame_names
from tglo.data.manifest import Manifest

Seen = list[int] | None
"""A file's size in bytes and the time of its last change in nanoseconds; None: there is no file. Of a folder of
frames their sizes together, the last time, and a number that its names and the manifest's rates for it give.
"""


class Sources:
    """The files of a manifest's images as they are now. A tar or Arrow file is asked about once."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._containers: dict[str, Seen] = {}

    def of(self, image: str) -> Seen:
        """Return size and time of the file that holds an image."""
        file, member = split_reference(image)
        if member is None:
            return self._look(file)
        if file not in self._containers:
            self._containers[file] = self._look(file)
        return self._containers[file]

    def _look(self, file: str) -> Seen:
        status = self._manifest.status(file)
        if status is not None:
            return [status.st_size, status.st_mtime_ns]
        folder = self._manifest.folder(file)
        return None if folder is None else self._look_into(file, folder)

    def _look_into(self, file: str, folder: Path) -> Seen:
        try:
            names = frame_names(folder)
            found = [os.stat(folder / name) for name in names]
        except (ImageError, OSError):  # gone, or it will be set aside
            return None
        rates = sorted({str(rate) for rate in self._rates.get(file, ())})
        told = hashlib.sha256(repr([names, rates]).encode()).digest()
        size, time = sum(s.st_size for s in found), max(s.st_mtime_ns for s in found)
        return [size, time, int.from_bytes(told[:6], "big")]

    @cached_property
    def _rates(self) -> dict[str, list[object]]:
        """What the manifest says of frames per second, by image."""
        rates: dict[str, list[object]] = {}
        for row in self._manifest.rows:
            if FRAME_RATE in row.extra:
                rates.setdefault(row.image, []).append(row.extra[FRAME_RATE])
        return rates
