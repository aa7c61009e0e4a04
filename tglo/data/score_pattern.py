"""Scores in the names of files, by a pattern that the user gives: nothing is guessed."""

from __future__ import annotations

import re

from tglo.data.errors import ManifestError

_PLACE = "{score}"
_NUMBER = r"([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"


class ScorePattern:
    """A pattern such as `*_{score}`, which names without their endings fit as a whole; `*` is any text."""

    def __init__(self, text: str) -> None:
        if text.count(_PLACE) != 1:
            raise ManifestError(
                f"the score pattern {text!r} (--score-pattern, data.score_pattern) must have {_PLACE} once, as "
                f"'*_{_PLACE}' for cat_7.5.png; * is any text"
            )
        self.text = text
        before, after = (".*?".join(map(re.escape, part.split("*"))) for part in text.split(_PLACE))
        # A text that ends in digits must not take a part of the number.
        apart = r"(?<![\d.])" if before.endswith("*?") else ""
        self._pattern = re.compile(before + apart + _NUMBER + after, re.DOTALL)

    def score_of(self, name: str) -> float | None:
        """Return the score in a name, None if it does not fit."""
        found = self._pattern.fullmatch(name)
        return None if found is None else float(found[1])
