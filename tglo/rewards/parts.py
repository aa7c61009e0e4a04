"""Partial scores of several processes beside the output: who scores what, and when all is scored.

    .NAME.partial            of one process
    .NAME.partial-R-of-W     of process R of W, with its lock in .NAME.partial-R-of-W.lock
    .NAME.partial-finished   the scorers whose scores went into the output

Every process begins with what all of these files hold, so their number may change between calls. The
output is written by the process that finds the files of all W complete. Files of several processes stay:
one that starts late must not score its share again. The next call with other scorers, or with one
process, removes them.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tglo.data.manifest import Row
from tglo.files import locked, read_json, remove_leftovers, write_json
from tglo.rewards.partial import Entry, PartialScores, finished, identity, read_partial

_SHARED = re.compile(r"-\d+-of-\d+")


def share(rows: Sequence[Row], unit: int, rank: int, world_size: int) -> list[Row]:
    """Return the rows that a process scores: every world_size-th run of `unit` rows.

    Whole batches go to a process, so what is computed together does not depend on how many there are.
    """
    return [row for number, row in enumerate(rows) if number // unit % world_size == rank]


class Parts:
    """The files of partial scores beside an output, as process `rank` of `world_size` has them."""

    def __init__(
        self, output: Path, scorers: Mapping[str, Any], rank: int = 0, world_size: int = 1
    ) -> None:
        self.output, self.scorers = output, scorers
        self.rank, self.world_size = rank, world_size
        self._base = output.with_name(f".{output.name}.partial")
        self._finished = self._base.with_name(f"{self._base.name}-finished")

    def path(self, rank: int) -> Path:
        """Return the file of a process."""
        if self.world_size == 1:
            return self._base
        return self._base.with_name(f"{self._base.name}-{rank}-of-{self.world_size}")

    @contextmanager
    def mine(self) -> Iterator[None]:
        """Hold this process's share inside the block. ValueError if another process has it."""
        lock = _lock_of(self.path(self.rank))
        for path in (self.output, self.path(self.rank), self._finished):
            remove_leftovers(path.parent, path.name)  # by name: the folder is the user's
        busy = f"{self.output} is in use by another process that scores this share; wait for it, or stop it"
        with locked(lock, busy):
            try:
                yield
            finally:
                if self.world_size == 1:
                    lock.unlink(missing_ok=True)

    def begin(self, rows: Sequence[Row]) -> PartialScores:
        """Return this process's scores: what is known of any row. rows: this process's.

        Files of earlier scorings that were finished are removed, or with several processes kept if
        they are of the same scorers. Raises ValueError for unfinished ones of other scorers.
        """
        ours = [identity(scorer) for scorer in self.scorers.values()]
        over = read_json(self._finished) if self._finished.is_file() else None
        for path in self._shared():
            content = read_partial(path)
            if content is not None and content.get("scorers") == over:
                if path == self.path(self.rank) and over != ours:
                    path.unlink(missing_ok=True)
                elif over != ours or self.world_size == 1:
                    _remove(path)
        sources = [path for path in (self._base, *self._shared()) if path != self.path(self.rank)]
        mine = {row.sample_id for row in rows}
        return PartialScores(self.path(self.rank), self.scorers, sources, mine)

    def collect(
        self, shares: Sequence[Sequence[Row]], known: PartialScores
    ) -> tuple[dict[int, Entry], dict[int, str]] | None:
        """Return the scores and the unreadable images of all shares, once every process is done."""
        scores, unreadable = dict(known.scores), dict(known.unreadable)
        for rank, rows in enumerate(shares):
            if rank == self.rank or not rows:
                continue
            theirs, lost = finished(self.path(rank), known.scorers, digest(rows))
            if not theirs and not lost:
                return None
            scores |= theirs
            unreadable |= lost
        return scores, unreadable

    def finish(self) -> None:
        """After the output is written: remove the files of one process, mark those of several."""
        if self.world_size > 1:
            ours = [identity(scorer) for scorer in self.scorers.values()]
            write_json(self._finished, ours)
            _remove(self._base)
            return
        self._base.unlink(missing_ok=True)
        for path in self._shared():
            _remove(path)
        self._finished.unlink(missing_ok=True)

    def _shared(self) -> list[Path]:
        found = self._base.parent.glob(f"{glob.escape(self._base.name)}-*")
        return sorted(p for p in found if _SHARED.fullmatch(p.name[len(self._base.name) :]))


def digest(rows: Sequence[Row]) -> str:
    """Name a share: its sample ids in order."""
    return hashlib.sha256(" ".join(str(row.sample_id) for row in rows).encode()).hexdigest()


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _remove(path: Path) -> None:
    """Remove the file of a process that is no longer at work."""
    with suppress(ValueError), locked(_lock_of(path), "busy"):
        path.unlink(missing_ok=True)
        _lock_of(path).unlink(missing_ok=True)
