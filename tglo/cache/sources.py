"""Whether an image may have changed since it was encoded: by the size and time of its file."""

from __future__ import annotations

from tglo.data.containers import split_reference
from tglo.data.manifest import Manifest

Seen = list[int] | None
"""A file's size in bytes and the time of its last change in nanoseconds; None: there is no file."""


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
        return None if status is None else [status.st_size, status.st_mtime_ns]
