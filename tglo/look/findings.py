"""All that was found in a data set, as one object: the page shows it, --json prints it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tglo.look.contents import Contents
from tglo.look.labels import Labelled
from tglo.look.notes import Note
from tglo.look.presence import Presence
from tglo.look.prompts import PromptFacts
from tglo.look.prospects import Prospects
from tglo.look.repeats import Repeats
from tglo.look.scores import Histogram, ScoreFacts
from tglo.look.sizes import Sizes

_PARTS = (
    *("prompts", "scores", "histogram", "differences", "repeats"),
    *("presence", "contents", "sizes", "prospects"),
)


@dataclass(frozen=True)
class Findings:
    """What `survey` found.

    scores: None where no row has one. labelled: None where there is no threshold. histogram: of the scores;
    differences: of s - tau, where tau differs by prompt. best, worst, nearest: rows, the first the most so.
    prospects: None without a run's configuration.
    """

    manifest: str
    rows: int
    scored: int
    images: int
    prompts: PromptFacts
    scores: ScoreFacts | None
    labelled: Labelled | None
    histogram: Histogram | None
    differences: Histogram | None
    best: list[int]
    worst: list[int]
    nearest: list[int]
    repeats: Repeats
    presence: Presence
    contents: Contents
    sizes: Sizes
    prospects: Prospects | None
    notes: list[Note]

    def plain(self) -> dict[str, Any]:
        """Return the findings as numbers, texts, lists and mappings; rows by their lines are left to the page."""
        found: dict[str, Any] = {
            name: None if part is None else asdict(part)
            for name in _PARTS
            for part in [getattr(self, name)]
        }
        return {
            "manifest": self.manifest,
            "rows": self.rows,
            "scored": self.scored,
            "images": self.images,
            **found,
            "threshold": self._threshold(),
            "notes": [asdict(note) for note in self.notes],
        }

    def text(self) -> str:
        """Return what to know first, for a terminal."""
        counts = (
            f"{self.rows:,} rows, {self.scored:,} with a score; {self.prompts.count:,} prompts, "
            f"{self.images:,} images"
        )
        threshold = [] if self.labelled is None else [str(self.labelled.summary).partition("\n")[0]]
        return "\n".join(
            [counts, *threshold, *(f"{note.level}: {note.text}" for note in self.notes)]
        )

    def _threshold(self) -> Mapping[str, Any] | None:
        if self.labelled is None:
            return None
        return {
            **asdict(self.labelled.summary),
            "sides": {
                "positives": asdict(self.labelled.positives),
                "negatives": asdict(self.labelled.negatives),
            },
        }
