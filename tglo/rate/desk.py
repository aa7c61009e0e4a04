"""The desk where raters come and go: who is there, what each sees next, and what they say, which is logged first."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tglo.data.manifest import Manifest, Row
from tglo.rate.book import Book, Rater
from tglo.rate.events import Event, Rate, Skip, clean_name, key_of
from tglo.rate.log import RatingLog
from tglo.rate.order import choose, order_of
from tglo.rate.versions import Versions

READY = 4  # images that a page has at once: the one that is looked at, and those after it
GONE_AFTER = 100.0  # seconds without a word from a page, which says one every 30
UNDONE = 50  # steps back that a page is told of


class NameTaken(ValueError):
    """Somebody rates under that name in another page."""


@dataclass
class _Visit:
    """A page in which somebody rates. holds: the images that it has ready."""

    session: str
    order: NDArray[np.int64]
    seen: float = field(default_factory=time.monotonic)
    holds: set[int] = field(default_factory=set)

    @property
    def is_here(self) -> bool:
        return time.monotonic() - self.seen < GONE_AFTER


class Desk:
    """Answers the pages of all raters, one at a time. May be used from several threads.

    manifest: its rows are all different images (distinct_rows). overlap, seed: see `choose` and `order_of`.
    """

    def __init__(
        self, manifest: Manifest, log: RatingLog, *, overlap: int = 0, seed: int = 0
    ) -> None:
        self.manifest, self.log, self.overlap, self.seed = manifest, log, overlap, seed
        self.samples = [row.sample_id for row in manifest]
        self.versions = Versions(manifest)
        self.book = Book(self.samples, log.events, self.versions.is_current)
        self._visits: dict[str, _Visit] = {}
        self._lock = threading.Lock()

    def enter(self, name: str, session: str, take_over: bool = False) -> dict[str, Any]:
        """Return what a page starts with. ValueError for a name that is none, NameTaken for one in use."""
        with self._lock:
            rater = self.book.rater(name)
            self._visit(rater, session, take_over).holds = set()
            return {
                "name": rater.name,
                "steps": [
                    {"id": step.id, "stars": int(rater.stars[step.image]), **self._row(step.image)}
                    for step in rater.steps[-UNDONE:]
                ],
                **self._next(rater, []),
            }

    def leave(self, name: str, session: str) -> None:
        """Forget a page that was closed."""
        with self._lock:
            key = key_of(clean_name(name))
            if key in self._visits and self._visits[key].session == session:
                del self._visits[key]

    def record(
        self, name: str, session: str, events: Sequence[Event], holding: Sequence[str]
    ) -> dict[str, Any]:
        """Log what a rater did, and return which events are safe and what comes next.

        What a page did before another took its name over is logged too, but nothing comes next for it. holding:
        the sample ids of the images that the page has. Raises OSError, DiskFull for one, if nothing could be
        logged.
        """
        versions = self._versions(events)
        with self._lock:
            rater = self.book.rater(name)
            refused = {event.id: why for event in events if (why := self._why_refused(event))}
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            new = {
                event.id: msgspec.structs.replace(
                    event, rater=rater.name, at=now, **versions.get(event.id, {})
                )
                for event in events
                if event.id not in refused and not self.book.has(event)
            }
            if new:
                self.log.append(list(new.values()))
            for event in new.values():
                self.book.enter(event)
            answer = {
                "saved": [event.id for event in events if event.id not in refused],
                "refused": refused,
            }
            try:
                self._visit(rater, session, False)
            except NameTaken as taken:
                return {**answer, "taken": str(taken)}
            return {**answer, **self._next(rater, holding)}

    def _versions(self, events: Sequence[Event]) -> dict[str, dict[str, str]]:
        """Return the versions of the images that events are about, by the event's id."""
        return {
            event.id: self.versions.now(image)._asdict()
            for event in events
            if isinstance(event, (Rate, Skip))
            and not self.book.has(event)
            and (image := self.book.find(event.sample)) is not None
        }

    def _visit(self, rater: Rater, session: str, take_over: bool) -> _Visit:
        """Return the visit of a page; NameTaken where another page that is here has the name."""
        key = key_of(rater.name)
        visit = self._visits.get(key)
        if visit is None or visit.session != session:
            if visit is not None and visit.is_here and not take_over:
                raise NameTaken(f"{rater.name} is rating in another window or on another machine")
            order = visit.order if visit else order_of(rater.name, self.samples, self.seed)
            visit = self._visits[key] = _Visit(session, order)
        visit.seen = time.monotonic()
        return visit

    def _next(self, rater: Rater, holding: Sequence[str]) -> dict[str, Any]:
        """Return the rows that fill up what a page has ready, and how far its rater is."""
        visit = self._visits[key_of(rater.name)]
        held = [image for sample in holding if (image := self.book.find(sample)) is not None]
        free = rater.stars == 0
        free[held] = False
        counts = self.book.counts + self._pending(visit) if self.overlap else self.book.counts
        images = choose(visit.order, free, counts, self.overlap, max(0, READY - len(held)))
        visit.holds = {*held, *images}
        open_to_all = counts[free] < self.overlap if self.overlap else free[free]
        return {
            "rows": [self._row(image) for image in images],
            "rated": rater.rated,
            "skipped": rater.skipped,
            "left": int(np.count_nonzero(open_to_all)) + len(held),
        }

    def _pending(self, mine: _Visit) -> NDArray[np.int16]:
        """Return how many other raters have each image before them."""
        pending = np.zeros(len(self.samples), np.int16)
        for visit in self._visits.values():
            if visit is not mine and visit.is_here:
                pending[list(visit.holds)] += 1
        return pending

    def _row(self, image: int) -> dict[str, Any]:
        row: Row = self.manifest.rows[image]
        return {
            "row": image,
            "sample": str(row.sample_id),
            "prompt": row.prompt,
            "video": self.manifest.is_video(row),
        }

    def _why_refused(self, event: Event) -> str | None:
        if isinstance(event, (Rate, Skip)) and self.book.find(event.sample) is None:
            return "it is of an image that the manifest does not have (any more)"
        return None
