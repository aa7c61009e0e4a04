"""Errors in data, one class for each thing that a caller does about them."""

from __future__ import annotations


class ManifestError(ValueError):
    """The manifest cannot be used: a missing column, refused rows, a path outside the folder."""


class ImageError(ValueError):
    """One image cannot be used. Its row can be set aside; the other rows are not affected."""


class CacheError(ValueError):
    """A cache is torn, incomplete, or made for something else."""
