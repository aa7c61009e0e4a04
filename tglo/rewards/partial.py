"""The scores so far, in a file that is whole or absent, so that an interrupted scoring resumes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
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

    path: their file; None keeps them in memory alone. scorers: their identities. may_save: whether the file
    is still this process's to write. scores: by sample id. unreadable: sample id -> why its image could not be
    read, in this call.

    Raises ValueError for a file with the scores of other scorers, naming both.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        scorers: Sequence[str],
        may_save: Callable[[], bool] = lambda: True,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.scorers = [*scorers]
        self._may_save = may_save
        self.scores: dict[int, Entry] = {}
        self.unreadable: dict[int, str] = {}
        self._saved = time.monotonic()
        content = None if self.path is None else read_partial(self.path)
        if self.path is not None and content is not None:
            self.scores |= scores_of(self.path, content, self.scorers)

    def save(self, *, if_due: bool = False, done: str = "") -> bool:
        """Write the scores atomically; with if_due only if the last saving is SAVE_SECONDS ago. Returns
        whether they were written.

        done: says which rows they are all scores of.
        """
        due = not if_due or time.monotonic() - self._saved >= SAVE_SECONDS
        if self.path is None or not due or not (self.scores or done) or not self._may_save():
            return False
        content: dict[str, Any] = {"format": FORMAT, "scorers": self.scorers}
        content["scores"] = {str(i): list(entry) for i, entry in self.scores.items()}
        if done:
            content["unreadable"] = {str(i): text for i, text in self.unreadable.items()}
            content["done"] = done
        write_sealed(self.path, content)
        self._saved = time.monotonic()
        return True


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


def scores_of(path: Path, content: dict[str, Any], scorers: list[str]) -> dict[int, Entry]:
    """Return the scores in a file; ValueError for those of other scorers."""
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
