"""Whether an image may have changed since it was encoded: by the size and time of its file."""

from __future__ import annotations

import os
import stat

from tglo.data.containers import file_of

Seen = list[int] | None
"""A file's size in bytes and the time of its last change in nanoseconds; None: there is no file."""


class Sources:
    """The files of a data folder as they are now. A tar or Arrow file is asked about once."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._containers: dict[str, Seen] = {}

    def of(self, image: str) -> Seen:
        """Return size and time of the file that holds an image."""
        file = file_of(image)
        if file == image:
            return self._look(file)
        if file not in self._containers:
            self._containers[file] = self._look(file)
        return self._containers[file]

    def _look(self, file: str) -> Seen:
        try:
            status = os.stat(os.path.join(self._root, file))
        except (OSError, ValueError):
            return None
        return [status.st_size, status.st_mtime_ns] if stat.S_ISREG(status.st_mode) else None
