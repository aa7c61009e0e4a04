"""Folders of shards: each shard is published as a whole, and only then recorded.

A folder belongs to one fingerprint, which is written first. A shard is valid when its record
(NAME.json) is there and its file has the recorded size and checksum; the folder is complete when its
last file is there, which is written when every shard is recorded. So any number of processes may make
the shards of one folder, be killed at any moment, and continue. Only safetensors and JSON are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from tglo.data.errors import CacheError
from tglo.files import claim_folder, differences, read_json, sha256_file, write_json, writing_file

FINGERPRINT = "fingerprint.json"
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
    record_path, shard_path = folder / f"{name}.json", folder / f"{name}.safetensors"
    try:
        record = read_json(record_path)
        if shard_path.stat().st_size != record["bytes"]:
            return None
        if checksum and sha256_file(shard_path) != record["sha256"]:
            return None
    except (OSError, ValueError, KeyError, TypeError):  # missing or torn
        return None
    return dict(record)


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


def check_file(
    folder: Path, entry: Mapping[str, Any], *, checksum: bool, command: str = "tglo cache"
) -> None:
    """Raise CacheError if a file of a complete cache is missing, cut or changed."""
    path = folder / entry["file"]
    if path.name != entry["file"]:
        raise CacheError(f"{folder} names {entry['file']!r}, which is outside the folder; refused")
    size = path.stat().st_size if path.is_file() else None
    if size != entry["bytes"]:
        state = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
        raise CacheError(f"{path} {state}; run `{command}` again, it makes only what is torn")
    if checksum and sha256_file(path) != entry["sha256"]:
        raise CacheError(
            f"{path} differs from its checksum; run `{command}` again, it makes only what is torn"
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
