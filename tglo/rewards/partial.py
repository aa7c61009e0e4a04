"""The scores so far, in a file that is whole or absent, so that an interrupted scoring goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tglo.files import read_sealed, reading, write_sealed

FORMAT = "tglo.scores.3"  # of the file
UNSEALED = "tglo.scores.2"  # the same without a checksum
SAVE_SECONDS = 30.0  # the least time between two savings
_DESCRIBED = "file of partial scores", "remove it, and its images are scored again"

_SETTINGS = ("frame_rate", "max_frames")  # attributes of scorers of videos

Entry = tuple[list[float], str]
"""One number per scorer, and the hash of the image that they belong to."""


def identity(scorer: Any) -> str:
    """Return what a scorer's numbers depend on, as far as it tells: its `identity`, else its name."""
    module = getattr(scorer, "__module__", type(scorer).__module__)
    name = getattr(scorer, "__qualname__", type(scorer).__qualname__)
    settings = [f", {key} {getattr(scorer, key)}" for key in _SETTINGS if hasattr(scorer, key)]
    return str(getattr(scorer, "identity", f"{module}:{name}{''.join(settings)}"))


class PartialScores:
    """The scores so far.

    path: their file; None keeps them in memory alone. sources: further files to begin with, of other
    processes or of an earlier number of them. mine: the sample ids that this file is for; all by default.
    scores: by sample id. unreadable: sample id -> why its image could not be read, in this call.

    Raises ValueError for a file with the scores of other scorers, naming both.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        scorers: Mapping[str, Any],
        sources: Iterable[Path] = (),
        mine: Collection[int] | None = None,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.scorers = [identity(scorer) for scorer in scorers.values()]
        self.mine = mine
        self.scores: dict[int, Entry] = {}
        self.unreadable: dict[int, str] = {}
        self._saved = time.monotonic()
        for source in (*sources, *([self.path] if self.path else [])):
            content = read_partial(source)
            if content is not None:
                self.scores |= _scores(source, content, self.scorers)

    def save(self, *, if_due: bool = False, done: str = "") -> None:
        """Write the scores atomically; with if_due only if the last saving is SAVE_SECONDS ago.

        done: says which share of the work they are the whole of.
        """
        due = not if_due or time.monotonic() - self._saved >= SAVE_SECONDS
        known = [i for i in self.scores if self.mine is None or i in self.mine]
        if self.path is None or not due or not (known or done):
            return
        content: dict[str, Any] = {"format": FORMAT, "scorers": self.scorers}
        content["scores"] = {str(i): list(self.scores[i]) for i in known}
        if done:
            content["unreadable"] = {str(i): text for i, text in self.unreadable.items()}
            content["done"] = done
        write_sealed(self.path, content)
        self._saved = time.monotonic()


def read_partial(path: Path) -> dict[str, Any] | None:
    """Read a file of partial scores; None if there is none. DamagedFile for a changed or torn one."""
    try:
        content = read_sealed(path, *_DESCRIBED, lambda found: found.get("format") != FORMAT)
    except FileNotFoundError:  # or removed by the process that wrote the output
        return None
    if content.get("format") not in (FORMAT, UNSEALED):
        raise ValueError(
            f"{path} holds no partial scores of this version: remove it or give another file"
        )
    return content


def finished(path: Path, scorers: list[str], done: str) -> tuple[dict[int, Entry], dict[int, str]]:
    """Return the scores and the unreadable images of a share, both empty unless its file is the whole of it."""
    content = read_partial(path)
    if content is None or content.get("done") != done or content.get("scorers") != scorers:
        return {}, {}
    with reading(path, *_DESCRIBED):
        unreadable = {int(sample): str(text) for sample, text in content["unreadable"].items()}
    return _scores(path, content, scorers), unreadable


def _scores(path: Path, content: dict[str, Any], scorers: list[str]) -> dict[int, Entry]:
    if content.get("scorers") != scorers:
        raise ValueError(
            f"{path} holds scores of {content.get('scorers')}, not of {scorers}: remove it or give "
            "another file"
        )
    found: dict[int, Entry] = {}
    with reading(path, *_DESCRIBED):
        for sample, (numbers, sha256) in content["scores"].items():
            scores = [float(number) for number in numbers]
            if len(scores) != len(scorers) or not np.isfinite(scores).all():
                raise ValueError(f"the scores of sample {sample} are {numbers}")
            found[int(sample)] = (scores, sha256)
    return found
