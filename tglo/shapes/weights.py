"""Weights that come with a checkout, and not with what is published: they are many times the size of the code."""

from __future__ import annotations

from pathlib import Path

from tglo.console.extras import install


def shipped(path: Path) -> Path:
    """Return the path of weights that ship with tglo. FileNotFoundError, with the remedy, where they were left out."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: the weights of the demo and the shapes world are not in the published "
            f"package; {install('train')} brings them"
        )
    return path
