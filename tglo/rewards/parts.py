"""The work on an output's scores: a work list beside it, which any number of processes share.

    .NAME.partial-work/                  beside the output NAME
        scores-00003-0123456789ab.json   of a run of rows: its number, the start of its rows' digest
        .scores-00003-0123456789ab.claim while a process scores them: which one (tglo.files.claims)
        .process-0123456789abcdef.claim  of each process that takes part
        finished.json                    the scorers and rows whose scores went into the output
    .NAME.partial, .NAME.partial-R-of-W  of earlier versions: begun with, and removed at the end

Whole batches are in a part, so what is computed together does not depend on how many processes there are.
The folder stays where several processes took part: one that starts late must not score everything again. A
call with other scorers begins it anew.
"""

from __future__ import annotations

import glob
import hashlib
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tglo.data.manifest import Manifest, Row
from tglo.files import read_json, remove_leftovers, write_json
from tglo.files.claims import Claims
from tglo.files.work_list import stamp, waited_for
from tglo.rewards.partial import Entry, PartialScores, identity, read_partial, scores_of

PARTS = 256  # about as many as a manifest of up to PARTS * LARGEST images is divided into
LARGEST = 1024  # images in a part
_OUTPUT = "output"  # the claim of the process that begins, or writes the output


@dataclass(frozen=True, eq=False)
class Part:
    """A run of rows that one process scores."""

    name: str
    start: int
    rows: Sequence[Row]
    ids: NDArray[np.int64]
    digest: str
    stamp: tuple[int, int] | None
    """Of its file as it was planned; None without one."""


class Parts:
    """The parts beside an output, as one process has them inside its block.

    was_finished: whether they were all scored, and the output written, when it began.
    """

    def __init__(self, output: Path, scorers: Mapping[str, Any]) -> None:
        self.output = output
        self.scorers = [identity(scorer) for scorer in scorers.values()]
        self._base = output.with_name(f".{output.name}.partial")
        self.folder = self._base.with_name(f"{self._base.name}-work")
        self._finished = self.folder / "finished.json"
        self._known: dict[int, Entry] = {}
        self._own: set[Part] = set()
        self.claims = Claims(self.folder)

    def __enter__(self) -> Self:
        for path in (self.output, self._base):
            remove_leftovers(path.parent, path.name)  # by name: the folder is the user's
        return self

    def __exit__(self, *_: object) -> None:
        self.claims.__exit__()
        with suppress(OSError):  # holds what this process scored, or others are at work
            self.folder.rmdir()

    def begin(self, manifest: Manifest, unit: int, rank: int, world_size: int) -> list[Part]:
        """Take part; returns the parts in this process's order, which differ so that processes seldom meet.

        manifest: each sample once. unit: rows that are scored together. Raises ValueError for unfinished
        scores of other scorers.
        """
        with waited_for(self.claims, _OUTPUT):
            self.claims.take(f"process-{secrets.token_hex(8)}")
            self._remove_finished()
            remove_leftovers(self.folder)
            self._before = stamp(self._finished)
            self.was_finished = self._before is not None
            parts = self._divide(manifest, unit)
            self._rows = hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()
            self._collect_known({part.name for part in parts})
        first = len(parts) * rank // world_size
        new = [part for part in parts[first:] + parts[:first] if part.stamp is None]
        return new + [part for part in parts if part.stamp is not None]

    def is_done(self, part: Part, found: Callable[[int], Any]) -> bool:
        """Say whether this process has scored a part, or another has since this one began.

        found: told how many rows another has scored.
        """
        if part in self._own:
            return True
        path = self._path(part.name)
        if stamp(path) == part.stamp:
            return False
        content = read_partial(path)
        if content is None or content.get("done") != part.digest:
            return False
        found(len(part.ids))
        return True

    def open(self, part: Part) -> PartialScores:
        """Return what is known of a part that is claimed."""
        known = PartialScores(
            self._path(part.name), self.scorers, lambda: self.claims.has(part.name)
        )
        for sample in part.ids.tolist():
            if sample in self._known:
                known.scores.setdefault(sample, self._known[sample])
        return known

    def add(self, part: Part, known: PartialScores) -> None:
        """Keep the scores of a part that is done, and give it back."""
        if known.save(done=part.digest):
            self._own.add(part)
        self.claims.release(part.name)

    def collect(self, parts: Iterable[Part]) -> tuple[NDArray[np.float64], dict[int, str]]:
        """Return the scores (rows, scorers) of all parts, NaN where an image cannot be read, and why."""
        parts = sorted(parts, key=lambda part: part.start)
        values = np.full((sum(len(part.ids) for part in parts), len(self.scorers)), np.nan)
        unreadable: dict[int, str] = {}
        for part in parts:
            path = self._path(part.name)
            content = read_partial(path) or {}
            scores = scores_of(path, content, self.scorers)
            for place, sample in enumerate(part.ids.tolist(), part.start):
                if sample in scores:
                    values[place] = scores[sample][0]
            unreadable |= {int(i): str(why) for i, why in content["unreadable"].items()}
        return values, unreadable

    def is_written(self) -> bool:
        """Say whether another process has written the output since this one began."""
        if stamp(self._finished) in (None, self._before):
            return False
        return bool(read_json(self._finished) == self._finished_content())

    def finish(self, keep: bool) -> None:
        """After the output is written: mark the folder, for others that take part or will, or remove it."""
        if keep or self.was_finished or self.claims.others("process-"):
            write_json(self._finished, self._finished_content())
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
        for path in self._earlier():
            path.unlink(missing_ok=True)

    def output_claim(self) -> Any:
        """Hold the right to write the output inside the block."""
        return waited_for(self.claims, _OUTPUT)

    def _finished_content(self) -> dict[str, Any]:
        return {"scorers": self.scorers, "rows": self._rows}

    def _remove_finished(self) -> None:
        if not self._finished.is_file() or self.claims.others("process-"):
            return
        if read_json(self._finished).get("scorers") != self.scorers:
            for path in (self._finished, *self.folder.glob("scores-*.json")):
                path.unlink(missing_ok=True)

    def _divide(self, manifest: Manifest, unit: int) -> list[Part]:
        rows, ids = manifest.rows, manifest.sample_ids()
        target = min(len(ids) // PARTS, LARGEST)
        size = unit * max(1, target // unit)
        parts = []
        for number, start in enumerate(range(0, len(ids), size)):
            some = ids[start : start + size]
            digest = hashlib.sha256(some.astype("<i8").tobytes()).hexdigest()
            name = f"scores-{number:05d}-{digest[:12]}"
            seen = stamp(self._path(name))
            parts.append(Part(name, start, rows[start : start + size], some, digest, seen))
        return parts

    def _collect_known(self, current: set[str]) -> None:
        """Read the scores of files that are not of these parts: of other rows, batches or versions."""
        over = self._base.with_name(f"{self._base.name}-finished")
        old = read_json(over) if over.is_file() else None
        paths = [path for path in self.folder.glob("scores-*.json") if path.stem not in current]
        for path in (*paths, *self._earlier()):
            content = read_partial(path) if path.suffix == ".json" or _is_scores(path) else None
            if content is not None and (old is None or content.get("scorers") != old):
                self._known |= scores_of(path, content, self.scorers)
        for path in self.folder.glob("scores-*.json"):  # all have the same scorers
            scores_of(path, read_partial(path) or {}, self.scorers)
            break

    def _earlier(self) -> list[Path]:
        found = self._base.parent.glob(f"{glob.escape(self._base.name)}*")
        ends = r"(-\d+-of-\d+|-finished)?(\.lock)?"
        return [p for p in found if re.fullmatch(ends, p.name[len(self._base.name) :])]

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def _is_scores(path: Path) -> bool:
    return not path.name.endswith((".lock", "-finished"))
