"""Waiting for what other processes make in a folder, but not for ever."""

from __future__ import annotations

import time
from pathlib import Path


class Patience:
    """Ends when nothing in `folder` has come, gone or changed its name for `seconds`, while it was watched.

    By this process's own clock: what lies there may be old, or from a machine whose clock is another.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder, self.seconds = folder, seconds
        self._seen: int | None = None
        self._since = time.monotonic()

    def ended(self) -> bool:
        """Look at the folder; return whether it has not changed for too long."""
        now, changed = time.monotonic(), self._folder.stat().st_mtime_ns
        if changed != self._seen:
            self._seen, self._since = changed, now
        return now - self._since > self.seconds
