"""The work on a folder of shards: which items go where, who makes what, and when it is complete.

An item stays in the shard that has it; items that no shard has go to new ones. So any number of
processes, of one command or of several and on several machines, may make the shards of one folder, be
killed at any moment, and continue: all of them plan the same from what is recorded. The shards are a
work list (tglo.files.work_list): each process takes what is free until all are finished, so one that is
lost costs the shard that it was making. A shard that two of them make anyway has the same bytes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tglo.cache.garbage import collect_garbage
from tglo.cache.parts import Job, Part, State, in_turn, is_whole, plan_parts
from tglo.cache.shards import (
    Record,
    Shard,
    checked_entries,
    claim,
    clear,
    parse_name,
    problem,
    read_last,
    read_record,
    trusted_files,
    write_shard,
)
from tglo.data.errors import CacheError
from tglo.files import DamagedFile, write_json
from tglo.files.claims import Claims
from tglo.files.work_list import passes, stamp, waited_for


@dataclass(frozen=True)
class ShardReport:
    """The outcome of making shards, all of which are finished."""

    written: int  # shards
    kept: int  # shards that were finished before
    others: int  # shards that other processes wrote or looked through
    complete: bool  # always
    seconds: float

    def text(self, content: str, remark: str = "") -> str:
        """Return a line that says what was made, and how much of it now."""
        others = f", {self.others} by other processes" if self.others else ""
        return (
            f"{content}; {self.written} shards written, {self.kept} kept{others}, "
            f"{self.seconds:.1f} s{remark}"
        )


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
    is_ours: Callable[[Mapping[str, Any]], bool] = lambda content: True,
    rank: int,
    world_size: int,
    bar: Mapping[str, Any],
) -> ShardReport:
    """Make the shards of the folder, and keep what is finished, whole and current in them.

    What another process is making is waited for, and made here if that one is lost.
    last: name, format and readable versions of the file that marks the folder as complete. jobs: by the
    kind of shard. finish: writes that file, in one of the processes; called with the files that the
    one before names. accept: called with each record that this process has made or looked through.
    is_ours: whether such a file, by another process, is for these items. rank, world_size: where in the
    list this process begins; all take from the whole of it. bar: arguments of tqdm.

    Raises CacheError when the folder holds something else or has another fingerprint, or another
    command changes its items at the same time; ValueError for a rank out of range.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, world_size = {world_size}), got {rank}")
    started, written = time.monotonic(), set[Part]()
    claim(folder, fingerprint)
    before, trusted = stamp(folder / last[0]), trusted_files(folder / last[0], *last[1:])
    with Claims(folder) as claims:
        plan = [part for kind, job in jobs.items() for part in plan_parts(folder, kind, job)]
        with tqdm(total=sum(len(part.keys) for part in plan), **bar) as progress:
            state = State(folder, plan, progress.update)
            todo = in_turn(plan, rank / world_size)
            while todo:
                for free in passes(claims, todo, lambda part: part.name, state.is_done):
                    for part in free:
                        made = _make(folder, part, jobs[part.kind], trusted, claims)
                        claims.release(part.name)
                        if made is not None:
                            state.add(part)
                            if made[0]:
                                written.add(part)
                            accept(part, made[1])
                with waited_for(claims, last[0]):
                    if _is_complete(folder, last, before, plan, is_ours):
                        break
                    finished, todo = _finished(folder, plan, jobs, state.own)
                    state.again(todo)
                    if not todo:
                        finish(finished, trusted)
                        named = trusted_files(folder / last[0], *last[1:])
                        collect_garbage(folder, trusted, named, tuple(jobs), claims)
    new, kept = len(state.own & written), len(state.own - written)
    return ShardReport(new, kept, len(plan) - new - kept, True, time.monotonic() - started)


def _make(
    folder: Path, part: Part, job: Job, trusted: Mapping[str, str], claims: Claims
) -> tuple[bool, Record] | None:
    """Make a part that is claimed, or look through it; returns whether it was written, and its record.

    None if another process has taken it over meanwhile: nothing is published then.
    """
    clear(folder, f".{part.name}.*.tmp")
    record = read_record(folder, part.name)
    if record is not None and not {*part.keys} <= {*record["keys"]}:
        raise _changed_meanwhile(folder)
    shard = None
    if record is not None and problem(folder, record, checksum=True) is None:
        shard = Shard(folder, part.name, record)
    made = job.make(part.keys, shard)
    if not claims.has(part.name):
        return None
    if made.tensors is not None:
        content = {**made.record, "keys": list(part.keys)}
        try:
            shard = write_shard(folder, part.name, made.tensors, content, trusted)
        except FileNotFoundError:
            if claims.has(part.name):
                raise
            return None  # who has taken it over cleared the unfinished file away
    assert shard is not None, "a job makes what is not there"
    if made.seen is not None:
        # After the record: until then the old sizes and times make the images look changed.
        write_json(shard.seen_path, made.seen)
    if made.tensors is None:
        with suppress(OSError):  # another user's: then each process looks through it
            os.utime(folder / f"{part.name}.json")
    return made.tensors is not None, shard.record


def _finished(
    folder: Path, plan: Sequence[Part], jobs: Mapping[str, Job], own: set[Part]
) -> tuple[Finished, list[Part]]:
    """Return all shards, and those that are not finished after all: torn, or their items have changed."""
    found: Finished = {kind: [] for kind in jobs}
    left = []
    for part in plan:
        record = read_record(folder, part.name)
        shard = Shard(folder, part.name, record or {})
        job = jobs[part.kind]
        if is_whole(folder, part, record) and (part in own or job.is_current(part.keys, shard)):
            found[part.kind].append((part, replace(shard, record=job.brief(part, shard.record))))
        else:
            own.discard(part)
            left.append(part)
    return found, left


def _is_complete(
    folder: Path,
    last: tuple[str, str, Sequence[int]],
    before: tuple[int, int] | None,
    plan: Sequence[Part],
    is_ours: Callable[[Mapping[str, Any]], bool],
) -> bool:
    """Say whether another process has completed the folder, for these items, since this one began."""
    path = folder / last[0]
    if stamp(path) == before:
        return False
    try:
        content = read_last(path, *last[1:])
        named = {parse_name(value["file"]) for value in checked_entries(content["shards"])}
    except (CacheError, DamagedFile, OSError, KeyError, TypeError, ValueError):
        return False
    return is_ours(content) and all((part.kind, part.number) in named for part in plan)


def _changed_meanwhile(folder: Path) -> CacheError:
    return CacheError(
        f"another command is changing {folder} for other rows at the same time: wait until it is "
        "done, and start the same command again"
    )
