"""`tglo --version`: the versions that a report of a bug needs, without importing what they are of."""

from __future__ import annotations

import importlib.util
import platform
from importlib import metadata

SHOWN = ("torch", "diffusers")


def version_line() -> str:
    """Return the versions of tglo, its main libraries and Python, and whether the extension is built."""
    built = "extension built" if importlib.util.find_spec("tglo._C") else "extension not built"
    parts = [*(f"{name} {_version(name)}" for name in SHOWN), f"Python {platform.python_version()}"]
    return f"tglo {installed()} ({', '.join([*parts, built])})"


def installed() -> str:
    """Return tglo's version with the label of its build: +bare, +cpu or +cuda of wheels made from a checkout."""
    from tglo import __version__

    version = _version("tglo")  # of another tglo, where a checkout comes before it on the path
    return version if version.partition("+")[0] == __version__ else __version__


def is_bare() -> bool:
    """Return whether this tglo was installed without its extension on purpose, or where none is built."""
    return installed().endswith("+bare")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
