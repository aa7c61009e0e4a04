"""The files of a folder of shards: each is published as a whole, and only then recorded.

A folder belongs to one fingerprint, which is written first. A shard is valid when its record
(NAME.json) is there and the file that it names has the recorded size and checksum. The folder's last
file names all shards that belong together; it is written when every one is recorded, and what it names
stays as it is until another takes its place. Only safetensors and JSON are read.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from tglo.cache.format import FINGERPRINT
from tglo.data.errors import CacheError
from tglo.files import (
    DamagedFile,
    claim_folder,
    differences,
    disk_space,
    flush,
    read_sealed,
    save_tensors,
    sha256_file,
    write_sealed,
)

COMMANDS = {"tglo.cache": "tglo cache", "tglo.reference": "tglo cache --reference"}
KINDS = {"tglo.cache": "latent cache", "tglo.reference": "cache of reference errors"}
Record = dict[str, Any]
_FILE = re.compile(r"([a-z]+)-(\d{5,})(-[0-9a-f]{12})?\.safetensors")


def shard_name(kind: str, number: int) -> str:
    """Return the name of a shard: that of its record, without suffix, and the start of its file's."""
    return f"{kind}-{number:05d}"


def parse_name(file: str) -> tuple[str, int]:
    """Return kind and number of a shard from its file's name."""
    found = _FILE.fullmatch(file)
    if found is None:
        raise ValueError(f"{file!r} is not the name of a shard")
    return found[1], int(found[2])


@dataclass(frozen=True)
class Shard:
    """A recorded shard whose file is whole."""

    folder: Path
    name: str
    record: Record

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, as views of a memory map."""
        return load_file(self.folder / self.record["file"])

    @property
    def seen_path(self) -> Path:
        """The file that says how the images' files looked when they were encoded."""
        return self.folder / f"{self.name}.sources.json"

    def seen(self) -> dict[str, Any]:
        """Return size and time of each item's file, by key; what is unknown counts as changed."""
        try:
            found = json.loads(self.seen_path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


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


def read_record(folder: Path, name: str) -> Record | None:
    """Return a shard's record, or None if it is missing or damaged."""
    try:
        record = read_sealed(folder / f"{name}.json", "record of a shard", "make it again")
        checked_entries([record])
        whole = shard_name(*parse_name(record["file"])) == name and isinstance(record["keys"], list)
    except (OSError, DamagedFile, KeyError, TypeError, ValueError):
        return None
    return record if whole else None


def write_shard(
    folder: Path,
    name: str,
    tensors: Mapping[str, Tensor],
    record: Record,
    trusted: Mapping[str, str],
) -> Shard:
    """Publish a shard, then its record, which replaces an older one.

    trusted: the files that the folder's last file names, with their checksums.
    """
    whole = {**record, **write_tensors(folder, name, tensors, trusted)}
    write_sealed(folder / f"{name}.json", whole)
    return Shard(folder, name, whole)


def write_tensors(
    folder: Path, name: str, tensors: Mapping[str, Tensor], trusted: Mapping[str, str]
) -> dict[str, Any]:
    """Publish NAME.safetensors; return its name, size and checksum, as `check_file` takes them.

    A trusted file with other content stays: the new one is called by its checksum then. So does one
    that was superseded: trainings may still read it.
    """
    plain = folder / f"{name}.safetensors"
    temporary = folder / f".{plain.name}.{secrets.token_hex(8)}.tmp"
    try:
        with disk_space(plain, sum(tensor.nbytes for tensor in tensors.values())):
            save_tensors(tensors, temporary)
            digest = sha256_file(temporary)
            path = plain
            superseded = bool(trusted) and plain.name not in trusted and plain.exists()
            if superseded or trusted.get(plain.name, digest) != digest:
                path = folder / f"{name}-{digest[:12]}.safetensors"
            flush(temporary)
            size = temporary.stat().st_size
            os.replace(temporary, path)
            flush(folder)
    finally:
        temporary.unlink(missing_ok=True)
    return {"file": path.name, "bytes": size, "sha256": digest}


def entry(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return name, size and checksum of a file, which a folder's last file keeps."""
    return {key: record[key] for key in ("file", "bytes", "sha256")}


def checked_entries(values: Any) -> list[dict[str, Any]]:
    """Return entries as they are; TypeError or KeyError for another form."""
    if not isinstance(values, list):
        raise TypeError
    for value in values:
        kinds = {"file": str, "bytes": int, "sha256": str}
        if any(type(value[key]) is not kind for key, kind in kinds.items()):
            raise TypeError
    return values


def problem(folder: Path, entry: Mapping[str, Any], *, checksum: bool) -> str | None:
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
    if Path(name).name != name or "\0" in name:
        raise CacheError(f"{folder} names {name!r}, which is outside the folder; refused")
    found = problem(folder, entry, checksum=checksum)
    if found:
        raise CacheError(
            f"{folder / name} {found}; run `{command}` again, it makes only what is torn"
        )


def read_last(path: Path, form: str, versions: Sequence[int]) -> dict[str, Any]:
    """Return the content of a folder's last file.

    CacheError unless it is complete and of one of the versions, DamagedFile when it is torn.
    """
    folder, command = path.parent, COMMANDS[form]
    if not path.is_file():
        state = "is not complete" if (folder / FINGERPRINT).is_file() else "is not a cache"
        raise CacheError(
            f"{folder} {state} (no {path.name}); run `{command}`, or with a run's file `tglo cache RUN.toml`: it "
            "resumes where it stopped"
        )
    remedy = f"run `{command}` again"
    content = read_sealed(path, KINDS[form], remedy, lambda found: found.get("version") == 1)
    if content.get("format") != form:
        raise CacheError(
            f"{path} does not belong to a {KINDS[form]}: give the folder that `{command}` made"
        )
    version = content.get("version")
    if type(version) is not int or version not in versions:
        raise CacheError(
            f"{folder} has cache format version {version!r}, this tglo reads "
            f"{versions[-1]}: make it again in another folder"
        )
    return content


def trusted_files(path: Path, form: str, versions: Sequence[int]) -> dict[str, str]:
    """Return the checksums of the files that a folder's last file names, by name; {} without one."""
    try:
        content = read_last(path, form, versions)
        listed = checked_entries([*content["shards"], *filter(None, [content.get("index")])])
    except (CacheError, DamagedFile, OSError, KeyError, TypeError):
        return {}
    return {value["file"]: value["sha256"] for value in listed}


def clear(folder: Path, pattern: str) -> None:
    """Remove the unfinished files of a killed process."""
    for left_over in folder.glob(pattern):
        left_over.unlink(missing_ok=True)


def record_names(folder: Path, kind: str) -> Iterable[tuple[int, str]]:
    """Return number and name of each record of a kind in the folder, ascending."""
    found = [re.fullmatch(rf"{kind}-(\d{{5,}})\.json", name) for name in os.listdir(folder)]
    return sorted((int(match[1]), match[0][: -len(".json")]) for match in found if match)
