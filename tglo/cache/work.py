"""The work on a folder of shards: which items go where, who makes what, and when it is complete.

An item stays in the shard that has it; items that no shard has go to new ones. So any number of
processes, of one command or of several, may make the shards of one folder, be killed at any moment,
and continue: all of them plan the same from what is recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from tglo.cache.garbage import collect_garbage
from tglo.cache.locks import Locks, Waiting
from tglo.cache.shards import (
    Record,
    Shard,
    claim,
    clear,
    problem,
    read_record,
    record_names,
    shard_name,
    trusted_files,
    write_shard,
)
from tglo.data.errors import CacheError
from tglo.files import write_json

POLL_SECONDS = 0.2


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
    items as they are now; asked of what other processes made, so it must be cheap.
    """

    keys: Sequence[int]
    split: Callable[[list[int]], list[list[int]]]
    make: Callable[[Sequence[int], Shard | None], Made]
    is_current: Callable[[Sequence[int], Shard], bool]


@dataclass(frozen=True)
class Part:
    """The wanted items of a shard."""

    kind: str
    number: int
    keys: Sequence[int]

    @property
    def name(self) -> str:
        return shard_name(self.kind, self.number)


@dataclass(frozen=True)
class ShardReport:
    """The outcome of making shards."""

    written: int  # shards
    kept: int  # shards that were finished before
    complete: bool  # False while other ranks still have shards to make
    seconds: float

    def text(self, content: str, remark: str = "") -> str:
        """Return a line that says what was made, and how much of it now."""
        text = f"{content}; {self.written} shards written, {self.kept} kept, {self.seconds:.1f} s{remark}"
        return text if self.complete else text + "; other ranks are not done yet"


Finished = dict[str, list[tuple[Part, Shard]]]
"""The parts and shards of each kind."""


def make_shards(
    folder: Path,
    last: tuple[str, str, Sequence[int]],
    fingerprint: Mapping[str, str],
    jobs: Mapping[str, Job],
    finish: Callable[[Finished, Mapping[str, str]], None],
    accept: Callable[[Part, Record], None] = lambda part, record: None,
    *,
    rank: int,
    world_size: int,
    bar: Mapping[str, Any],
) -> ShardReport:
    """Make this rank's shards of the folder, and keep what is finished, whole and current in them.

    They are every world_size-th of all. A shard that another command is making is waited for.
    last: name, format and readable versions of the file that marks the folder as complete. jobs: by the
    kind of shard. finish: writes that file, once all ranks are done; called with the files that the
    one before names. accept: called with each record, as soon as there is one. bar: arguments of tqdm.

    Raises CacheError when the folder holds something else or has another fingerprint, or another
    command changes its items at the same time; ValueError for a rank out of range.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, world_size = {world_size}), got {rank}")
    started, written = time.monotonic(), 0
    claim(folder, fingerprint)
    trusted = trusted_files(folder / last[0], *last[1:])
    with Locks(folder) as locks:
        plan = [part for kind, job in jobs.items() for part in _plan(folder, kind, job)]
        mine = plan[rank::world_size]
        with tqdm(total=sum(len(part.keys) for part in mine), **bar) as progress:
            for part, made, record in _work(folder, locks, mine, jobs, trusted):
                written += made
                accept(part, record)
                progress.update(len(part.keys))
        with locks.folder():
            finished = _finished(folder, plan, jobs, set(mine))
            if finished is not None:
                finish(finished, trusted)
                named = trusted_files(folder / last[0], *last[1:])
                collect_garbage(folder, trusted, named, tuple(jobs), locks)
    if finished is None and world_size == 1:
        raise _changed_meanwhile(folder)
    seconds = time.monotonic() - started
    return ShardReport(written, len(mine) - written, finished is not None, seconds)


def _plan(folder: Path, kind: str, job: Job) -> list[Part]:
    """Return the parts of all shards: items where they are, then new ones in free numbers."""
    missing, taken, parts = dict.fromkeys(job.keys), set(), []
    for number, name in record_names(folder, kind):
        record = read_record(folder, name)
        if record is None:
            continue
        taken.add(number)
        keys = [key for key in record["keys"] if key in missing]
        for key in keys:
            del missing[key]
        if keys:
            parts.append(Part(kind, number, tuple(keys)))
    free = (number for number in count() if number not in taken)
    parts += [Part(kind, next(free), tuple(keys)) for keys in job.split(list(missing))]
    return sorted(parts, key=lambda part: part.number)


def _work(
    folder: Path,
    locks: Locks,
    todo: Sequence[Part],
    jobs: Mapping[str, Job],
    trusted: Mapping[str, str],
) -> Iterator[tuple[Part, bool, Record]]:
    """Make the parts; yields each, whether it was written, and its record. Those that are locked come
    last.
    """
    waiting = Waiting()
    while todo:
        busy = []
        for part in todo:
            with locks.trying(part.kind, part.number) as free:
                if free:
                    made, record = _make(folder, part, jobs[part.kind], trusted)
            if free:
                yield part, made, record
            else:
                busy.append(part)
        if len(busy) == len(todo):
            waiting.on(f"another command, which is making {busy[0].name} in {folder}")
            time.sleep(POLL_SECONDS)
        else:
            waiting = Waiting()
        todo = busy


def _make(folder: Path, part: Part, job: Job, trusted: Mapping[str, str]) -> tuple[bool, Record]:
    clear(folder, f".{part.name}.*.tmp")
    record = read_record(folder, part.name)
    if record is not None and not {*part.keys} <= {*record["keys"]}:
        raise _changed_meanwhile(folder)
    shard = None
    if record is not None and problem(folder, record, checksum=True) is None:
        shard = Shard(folder, part.name, record)
    made = job.make(part.keys, shard)
    if made.tensors is not None:
        content = {**made.record, "keys": list(part.keys)}
        shard = write_shard(folder, part.name, made.tensors, content, trusted)
    assert shard is not None, "a job makes what is not there"
    if made.seen is not None:
        # After the record: until then the old sizes and times make the images look changed.
        write_json(shard.seen_path, made.seen)
    return made.tensors is not None, shard.record


def _finished(
    folder: Path, plan: Sequence[Part], jobs: Mapping[str, Job], mine: set[Part]
) -> Finished | None:
    """Return all shards, or None while one is missing or has not been looked at by its rank."""
    found: Finished = {kind: [] for kind in jobs}
    for part in plan:
        record = read_record(folder, part.name)
        if record is None or not {*part.keys} <= {*record["keys"]}:
            return None
        # Each rank has checked the checksums of its own shards; here the sizes are enough.
        if problem(folder, record, checksum=False) is not None:
            return None
        found[part.kind].append((part, Shard(folder, part.name, record)))
    others = [pair for pairs in found.values() for pair in pairs if pair[0] not in mine]
    current = all(jobs[part.kind].is_current(part.keys, shard) for part, shard in others)
    return found if current else None


def _changed_meanwhile(folder: Path) -> CacheError:
    return CacheError(
        f"another command is changing {folder} for other rows at the same time: wait until it is "
        "done, and start the same command again"
    )
