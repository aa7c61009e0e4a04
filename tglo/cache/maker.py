"""Makes the shards of a folder: resumable, by any number of ranks, and the same for every kind of cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tglo.cache.shards import all_records, claim, clear, finished_record, shard_name, write_shard

Record = dict[str, Any]
Produce = Callable[[Sequence[Any]], tuple[dict[str, Tensor], Record]]
"""Makes a shard's tensors and what its record adds to their file, from the shard's items."""


@dataclass(frozen=True)
class Job:
    """The shards of one kind: the items of each, how one is made, and whether a finished one is stale."""

    parts: Sequence[Sequence[Any]]
    produce: Produce
    is_stale: Callable[[Record], bool] = lambda record: False


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


def make_shards(
    folder: Path,
    last: str,
    fingerprint: Mapping[str, str],
    jobs: Mapping[str, Job],
    accept: Callable[[Record], None] = lambda record: None,
    *,
    rank: int,
    world_size: int,
    bar: Mapping[str, Any],
) -> tuple[ShardReport, dict[str, list[Record]]]:
    """Make this rank's shards of the folder, and keep those that are finished, whole and not stale.

    last: the file that marks the folder as complete. jobs: by the kind of shard, which names the files.
    accept: called with each record, as soon as there is one. bar: arguments of tqdm.

    Returns the report and, by kind, the records of all ranks if the folder is complete, else this rank's.
    Raises CacheError when the folder holds something else or has another fingerprint, ValueError for a
    rank out of range.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, world_size = {world_size}), got {rank}")
    from tqdm import tqdm

    started, written = time.monotonic(), 0
    claim(folder, fingerprint)
    if world_size == 1:  # with more, a file may belong to another rank that is at work
        clear(folder, ".*.tmp")
    mine = {k: list(enumerate(job.parts))[rank::world_size] for k, job in jobs.items()}
    made: dict[str, list[Record]] = {kind: [] for kind in jobs}
    total = sum(len(part) for parts in mine.values() for _, part in parts)
    with tqdm(total=total, **bar) as progress:
        for kind, job in jobs.items():
            for number, part in mine[kind]:
                name = shard_name(kind, number)
                record = finished_record(folder, name, checksum=True)
                if record is None or job.is_stale(record):
                    record = write_shard(folder, name, *job.produce(part), last=last)
                    written += 1
                made[kind].append(record)
                accept(record)
                progress.update(len(part))
    everything = {kind: all_records(folder, kind, len(job.parts)) for kind, job in jobs.items()}
    whole = {kind: records for kind, records in everything.items() if records is not None}
    complete = len(whole) == len(jobs)
    kept = sum(map(len, made.values())) - written
    report = ShardReport(written, kept, complete, time.monotonic() - started)
    return report, whole if complete else made
