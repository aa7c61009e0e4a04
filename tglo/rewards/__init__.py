"""Scorers: one callable (images, prompts) -> (B,) float64 each, higher is better.

`SCORERS` is the whole registry. Anything else is given as "package.module:function".
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from typing import Protocol, cast

from numpy.typing import ArrayLike
from PIL import Image

from tglo.rewards import programmatic
from tglo.rewards.score import score_manifest

__all__ = ["SCORERS", "Scorer", "load_scorer", "score_manifest"]


class Scorer(Protocol):
    """Scores of B images (PIL, RGB, of any sizes) for their prompts: (B,) finite numbers."""

    def __call__(self, images: list[Image.Image], prompts: list[str]) -> ArrayLike: ...


SCORERS: dict[str, Scorer] = {
    "ink": programmatic.ink,
    "colourfulness": programmatic.colourfulness,
    "sharpness": programmatic.sharpness,
    "compressibility": programmatic.compressibility,
}


def load_scorer(name: str) -> Scorer:
    """A scorer of the registry by its name, or any callable as "package.module:function".

    The second form imports and runs that module: take it from a person's command line, never from a
    file. Raises ValueError for an unknown name (naming the nearest), a module that cannot be found,
    or something that cannot be called.
    """
    if ":" not in name:
        if name in SCORERS:
            return SCORERS[name]
        near = difflib.get_close_matches(name, SCORERS, n=1)
        raise ValueError(
            f"there is no scorer {name!r}{_hint(near)}; known are {sorted(SCORERS)}, "
            'or give your own as "package.module:function"'
        )
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"scorer {name!r}: {error}; run where the module can be imported, or set PYTHONPATH"
        ) from error
    scorer = getattr(module, attribute, None)
    if not callable(scorer):
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        raise ValueError(f"{module_name} has no callable {attribute!r}{_hint(near)}")
    return cast(Scorer, scorer)


def _hint(near: Sequence[str]) -> str:
    return f" (did you mean {near[0]!r}?)" if near else ""
