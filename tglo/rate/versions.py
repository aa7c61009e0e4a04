"""Whether an image is still what was rated: by its file's size and time, and where these differ by its bytes."""

from __future__ import annotations

import hashlib
import logging
import os
from typing import NamedTuple

from tglo.cache.sources import Sources
from tglo.data.errors import ImageError, ManifestError
from tglo.data.manifest import Manifest
from tglo.rate.events import Rate, Skip

log = logging.getLogger("tglo")


class Version(NamedTuple):
    """An image as it was. file: its file's size and time of change, as text; digest: of its bytes. "": not known."""

    file: str = ""
    digest: str = ""


class Versions:
    """The images of a manifest as they are now. Bytes are read where size or time say that they may be others."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._sources = Sources(manifest)
        self._files: dict[int, str] = {}
        self._digests: dict[int, str] = {}

    def now(self, image: int) -> Version:
        """Look at an image and return its version; for one that cannot be read, one that is not known."""
        file = _file(Sources(self._manifest), self._manifest.rows[image].image)
        digest = self._digest(image) if file else ""
        return Version(file, digest) if digest else Version()

    def is_current(self, image: int, event: Rate | Skip) -> bool:
        """Return whether an event is about an image as it is now, looked at once; if that is not known, it is."""
        if not event.digest or self._is_untouched(image, event):  # none: of an earlier tglo
            return True
        if image not in self._files:
            self._files[image] = _file(self._sources, self._manifest.rows[image].image)
        if self._files[image] in ("", event.file):
            return True
        if image not in self._digests:
            if not self._digests:
                log.info(
                    "files of rated images have changed: reading these, to see which are others"
                )
            self._digests[image] = self._digest(image)
        return self._digests[image] in ("", event.digest)

    def _is_untouched(self, image: int, event: Rate | Skip) -> bool:
        """Ask for a file where it most likely is, ten times as fast as `Sources` finds it."""
        try:
            found = os.stat(os.path.join(self._manifest.root, self._manifest.rows[image].image))
        except OSError:
            return False
        return event.file == f"{found.st_size} {found.st_mtime_ns}"

    def _digest(self, image: int) -> str:
        try:
            with self._manifest.open_file(self._manifest.rows[image]) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:32]
        except (ImageError, ManifestError, ImportError, OSError):
            return ""


def _file(sources: Sources, image: str) -> str:
    return " ".join(map(str, sources.of(image) or ()))
