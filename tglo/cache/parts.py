"""The parts of the work on a folder of shards: which items are in which shard, and whether it is finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from tglo.cache.shards import Record, Shard, problem, read_record, record_names, shard_name
from tglo.files.work_list import stamp


@dataclass(frozen=True)
class Made:
    """A shard's new tensors with its record, or None for both where those that are there are right.

    seen: size and time of the items' files, by key, if the shard has such.
    """

    tensors: Mapping[str, Tensor] | None = None
    record: Record = field(default_factory=dict)
    seen: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Job:
    """The shards of one kind.

    keys: the distinct items, in the order of a new folder. split: into the parts for new shards.
    make: these items of a shard, given the shard if it is whole. is_current: whether a shard has the
    items as they are now; asked of what other processes made, so it must be cheap. brief: what of a part's
    record is kept until the folder is complete: of many shards the whole ones do not fit into memory.
    """

    keys: Sequence[int]
    split: Callable[[list[int]], list[list[int]]]
    make: Callable[[Sequence[int], Shard | None], Made]
    is_current: Callable[[Sequence[int], Shard], bool]
    brief: Callable[[Part, Record], Record] = lambda part, record: record


@dataclass(frozen=True)
class Part:
    """The wanted items of a shard."""

    kind: str
    number: int
    keys: Sequence[int]
    stamp: tuple[int, int] | None = None
    """Of the shard's record as it was planned; None without one."""

    @property
    def name(self) -> str:
        return shard_name(self.kind, self.number)


def plan_parts(folder: Path, kind: str, job: Job) -> list[Part]:
    """Return the parts of all shards: items where they are, then new ones in free numbers."""
    missing, taken, parts = dict.fromkeys(job.keys), set(), []
    for number, name in record_names(folder, kind):
        seen = stamp(folder / f"{name}.json")
        record = read_record(folder, name)
        if record is None:
            continue
        taken.add(number)
        keys = [key for key in record["keys"] if key in missing]
        for key in keys:
            del missing[key]
        if keys:
            parts.append(Part(kind, number, tuple(keys), seen))
    free = (number for number in count() if number not in taken)
    for keys in job.split(list(missing)):
        number = next(free)
        seen = stamp(folder / f"{shard_name(kind, number)}.json")  # of a damaged record
        parts.append(Part(kind, number, tuple(keys), seen))
    return sorted(parts, key=lambda part: part.number)


def in_turn(plan: Sequence[Part], start: float) -> list[Part]:
    """Return the parts in the order that this process takes them: of each kind first those to be made, then those to
    be looked through, each from another place for each process, so that they seldom meet.
    """
    groups: dict[tuple[str, bool], list[Part]] = {}
    for part in plan:
        groups.setdefault((part.kind, False), [])
        groups.setdefault((part.kind, True), [])
        groups[part.kind, part.stamp is not None].append(part)
    turned = []
    for parts in groups.values():
        first = int(start * len(parts))
        turned += parts[first:] + parts[:first]
    return turned


class State:
    """Which parts are finished, as far as this process has seen. found: told how many items of others' are.

    One is finished when this process has made it or looked through it; or another has since this one
    began, which its record shows: it was written anew or touched.
    """

    def __init__(self, folder: Path, plan: Sequence[Part], found: Callable[[int], Any]) -> None:
        self._folder, self._found = folder, found
        self.own: set[Part] = set()
        self._others: set[Part] = set()
        self.before = {part: part.stamp for part in plan}

    def is_done(self, part: Part) -> bool:
        if part in self.own or part in self._others:
            return True
        if stamp(self._folder / f"{part.name}.json") == self.before[part]:
            return False
        record = read_record(self._folder, part.name)
        if not is_whole(self._folder, part, record):
            return False
        self._others.add(part)
        self._found(len(part.keys))
        return True

    def add(self, part: Part) -> None:
        """Take note that this process has made a part or looked through it."""
        self.own.add(part)
        self._found(len(part.keys))

    def again(self, parts: Sequence[Part]) -> None:
        """Forget that others have finished these."""
        for part in parts:
            self._others.discard(part)
            self.before[part] = stamp(self._folder / f"{part.name}.json")


def is_whole(folder: Path, part: Part, record: Record | None) -> bool:
    """Say whether a part's record is there and its file has the size that it should have."""
    if record is None or not {*part.keys} <= {*record["keys"]}:
        return False
    # Whoever made it or looked through it has checked the checksum.
    return problem(folder, record, checksum=False) is None
