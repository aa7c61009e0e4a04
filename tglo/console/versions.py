"""`tglo --version`: the versions that a report of a bug needs, without importing what they are of."""

from __future__ import annotations

import importlib.util
import platform
from importlib import metadata

SHOWN = ("torch", "diffusers")


def version_line() -> str:
    """Return the versions of tglo, its main libraries and Python, and whether the extension is built."""
    from tglo import __version__

    built = "extension built" if importlib.util.find_spec("tglo._C") else "extension not built"
    parts = [*(f"{name} {_version(name)}" for name in SHOWN), f"Python {platform.python_version()}"]
    return f"tglo {__version__} ({', '.join([*parts, built])})"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
