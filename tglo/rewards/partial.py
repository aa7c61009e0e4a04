"""Keeps the scores so far in a JSON file, so that an interrupted scoring can be continued."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tglo.files import read_json, write_json

FORMAT = "tglo.scores.2"
SAVE_SECONDS = 30.0  # the least time between two savings


def identity(scorer: Any) -> str:
    """Return what a scorer's numbers depend on, as far as it tells: its `identity`, else its name."""
    module = getattr(scorer, "__module__", type(scorer).__module__)
    name = getattr(scorer, "__qualname__", type(scorer).__qualname__)
    return str(getattr(scorer, "identity", f"{module}:{name}"))


class PartialScores:
    """The scores so far.

    scores: by sample id, one number per scorer and the hash of the image that they belong to.
    """

    def __init__(self, path: str | os.PathLike[str] | None, scorers: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.scorers = [identity(scorer) for scorer in scorers.values()]
        self.scores: dict[int, tuple[list[float], str]] = {}
        self._saved = time.monotonic()
        if self.path is not None and self.path.exists():
            content = read_json(self.path)
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                raise ValueError(
                    f"{self.path} holds no partial scores of this version: "
                    "remove it or give another file"
                )
            if content["scorers"] != self.scorers:
                raise ValueError(
                    f"{self.path} holds scores of {content['scorers']}, not of {self.scorers}: "
                    "remove it or give another file"
                )
            self.scores = {int(i): (list(s), sha) for i, (s, sha) in content["scores"].items()}

    def save(self, *, if_due: bool = False) -> None:
        """Write the scores atomically; with if_due only if the last saving is SAVE_SECONDS ago."""
        if self.path is None or (if_due and time.monotonic() - self._saved < SAVE_SECONDS):
            return
        scores = {str(i): list(entry) for i, entry in self.scores.items()}
        write_json(self.path, {"format": FORMAT, "scorers": self.scorers, "scores": scores})
        self._saved = time.monotonic()
