"""Folders of shards: each shard is published as a whole, and only then recorded.

A folder belongs to one fingerprint, which is written first. A shard is valid when its record
(NAME.json) is there and its file has the recorded size and checksum; the folder is complete when its
last file is there, which is written when every shard is recorded. So any number of processes may make
the shards of one folder, be killed at any moment, and continue. Only safetensors and JSON are read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from tglo.data.errors import CacheError
from tglo.files import claim_folder, differences, read_json, sha256_file, write_json, writing_file

FINGERPRINT = "fingerprint.json"
Record = dict[str, Any]
Made = tuple[dict[str, Tensor], Record]
"""A shard's tensors, and what its record says beside their file's name, size and checksum."""
_COMMANDS = {"tglo.cache": "tglo cache", "tglo.reference": "tglo cache --reference"}


def shard_name(kind: str, number: int) -> str:
    """Return the file name, without a suffix, of a shard and its record."""
    return f"{kind}-{number:05d}"


def claim(folder: Path, fingerprint: Mapping[str, str]) -> None:
    """Bind the folder to this fingerprint; raise CacheError naming the fields that differ."""
    try:
        claim_folder(folder / FINGERPRINT, fingerprint, alone=True)
    except ValueError as error:
        raise CacheError(str(error)) from None


def check_fingerprint(path: Path, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raise CacheError naming each wanted field that differs, with both values."""
    differing = differences(found, wanted)
    if differing:
        raise CacheError(
            f"the cache {path} was made for something else: {differing}. Make a cache in another "
            "folder (`tglo cache`), or go back to those settings"
        )


def write_shard(
    folder: Path, name: str, tensors: dict[str, Tensor], record: dict[str, Any], last: str
) -> dict[str, Any]:
    """Publish a shard and its record; return the record, with the file's name, size and checksum.

    last: the file that marks the folder as complete; it is removed, because it no longer holds.
    """
    (folder / last).unlink(missing_ok=True)
    (folder / f"{name}.json").unlink(missing_ok=True)
    clear(folder, f".{name}.*.tmp")
    record = {**record, **write_tensors(folder / f"{name}.safetensors", tensors)}
    write_json(folder / f"{name}.json", record)
    return record


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Publish a safetensors file; return its name, size and checksum, as `check_file` takes them."""
    with writing_file(path) as temporary:
        save_file(tensors, temporary)
        size, digest = temporary.stat().st_size, sha256_file(temporary)
    return {"file": path.name, "bytes": size, "sha256": digest}


def finished_record(folder: Path, name: str, *, checksum: bool) -> dict[str, Any] | None:
    """Return a shard's record if the shard is finished and whole, else None."""
    try:
        record = dict(read_json(folder / f"{name}.json"))
        whole = _problem(folder, {**record, "file": f"{name}.safetensors"}, checksum) is None
    except (OSError, ValueError, KeyError, TypeError):  # missing or torn
        return None
    return record if whole else None


def all_records(folder: Path, kind: str, count: int) -> list[dict[str, Any]] | None:
    """Return the records of `count` shards, or None while one is missing."""
    records = []
    for number in range(count):
        # Each rank has checked the checksums of its own shards; here the sizes are enough.
        record = finished_record(folder, shard_name(kind, number), checksum=False)
        if record is None:
            return None
        records.append(record)
    return records


def entries(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the names, sizes and checksums of shards, which a folder's last file keeps."""
    return [{key: record[key] for key in ("file", "bytes", "sha256")} for record in records]


def _problem(folder: Path, entry: Mapping[str, Any], checksum: bool) -> str | None:
    """Say what is wrong with a file by its size and, if asked, its checksum; None if nothing is."""
    path = folder / entry["file"]
    size = path.stat().st_size if path.is_file() else None
    if size is None:
        return "is missing"
    if size != entry["bytes"]:
        return f"has {size} bytes instead of {entry['bytes']}"
    if checksum and sha256_file(path) != entry["sha256"]:
        return "differs from its checksum"
    return None


def check_file(
    folder: Path, entry: Mapping[str, Any], *, checksum: bool, command: str = "tglo cache"
) -> None:
    """Raise CacheError if a file of a complete cache is missing, cut or changed."""
    name = entry["file"]
    if Path(name).name != name:
        raise CacheError(f"{folder} names {name!r}, which is outside the folder; refused")
    problem = _problem(folder, entry, checksum)
    if problem:
        raise CacheError(
            f"{folder / name} {problem}; run `{command}` again, it makes only what is torn"
        )


def read_last(path: Path, form: str, version: int) -> dict[str, Any]:
    """Return the content of a folder's last file; CacheError unless complete and of this version."""
    folder = path.parent
    if not path.is_file():
        state = "is not complete" if (folder / FINGERPRINT).is_file() else "is not a cache"
        raise CacheError(f"{folder} {state} (no {path.name}); run `{_COMMANDS[form]}`, it resumes")
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != form:
        raise CacheError(f"{path} does not belong to a {form.replace('.', ' ')}")
    if content.get("version") != version:
        raise CacheError(
            f"{folder} has cache format version {content.get('version')!r}, this tglo reads "
            f"{version}: make it again in another folder"
        )
    return content


def clear(folder: Path, pattern: str) -> None:
    """Remove the unfinished files of a killed process."""
    for left_over in folder.glob(pattern):
        left_over.unlink(missing_ok=True)


@dataclass(frozen=True)
class Job:
    """The shards of one kind: the items of each, how one is made, and whether a finished one is stale."""

    parts: Sequence[Sequence[Any]]
    produce: Callable[[Any], Made]
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

    They are rank, rank + world_size, ... of each kind.
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
