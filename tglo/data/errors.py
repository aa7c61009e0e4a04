"""Errors in data, one class for each thing that a caller does about them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tglo.files import DamagedFile, reading


class ManifestError(ValueError):
    """The manifest cannot be used: a missing column, refused rows, a path outside the folder."""


class ImageError(ValueError):
    """One image cannot be used. Its row can be set aside; the other rows are not affected."""


class CacheError(ValueError):
    """A cache is torn, incomplete, or made for something else."""


@contextmanager
def reading_manifest(
    path: str | os.PathLike[str], kind: str, remedy: str = "copy it again"
) -> Iterator[None]:
    """`tglo.files.damaged.reading` for a file of a manifest: what its parser raises becomes a ManifestError.

    The body does nothing but parse. A missing file is a ManifestError too.
    """
    try:
        with reading(path, kind, remedy):
            try:
                yield
            except OSError as error:  # Arrow's class for a torn file, too
                raise ValueError(error.strerror or str(error)) from error
    except DamagedFile as error:
        raise ManifestError(str(error)) from error
