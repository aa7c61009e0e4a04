"""What cache.json says, checked when it is read: a damaged one raises no stranger's error."""

from __future__ import annotations

import json
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from tglo.cache.format import FORMAT, LAST, VERSIONS, Quarantined
from tglo.cache.shards import check_file, checked_entries, parse_name, read_last
from tglo.data.buckets import Bucket
from tglo.files import reading

KIND, REMEDY = "latent cache", "run `tglo cache` again"
_SAMPLES = ("sample_id", "shard", "bucket", "position", "original", "crop", "text")
_PROMPTS = ("text_key", "text_position")


@dataclass(frozen=True)
class Content:
    """The content of cache.json. rows: the digest of the manifest's sample ids, "" in format 1."""

    version: int
    fingerprint: dict[str, str]
    buckets: list[Bucket]
    shard_size: int
    rows: str
    quarantined: list[Quarantined]
    index: dict[str, Any]
    shards: list[dict[str, Any]]

    @property
    def files(self) -> dict[tuple[str, int], str]:
        """The file of each shard, by kind and number."""
        return {parse_name(entry["file"]): entry["file"] for entry in self.shards}


def read_content(folder: Path) -> Content:
    """Read cache.json; CacheError and DamagedFile as `read_last`, and CacheError for paths elsewhere."""
    path = folder / LAST
    found = read_last(path, FORMAT, VERSIONS)
    with reading(path, KIND, REMEDY):
        content = Content(
            version=found["version"],
            fingerprint=_texts(found["fingerprint"]),
            buckets=[_bucket(bucket) for bucket in found["buckets"]],
            shard_size=_count(found["shard_size"]),
            rows=_text(found.get("rows", "")),
            quarantined=[
                Quarantined(_count(e["line"]), _text(e["image"]), _text(e["cause"]))
                for e in found["quarantined"]
            ],
            index=checked_entries([found["index"]])[0],
            shards=checked_entries(found["shards"]),
        )
    for entry in (content.index, *content.shards):
        check_file(folder, entry, checksum=entry is content.index)
    with reading(path, KIND, REMEDY):
        content.files  # noqa: B018 - raises for names of other files
    return content


def read_index(folder: Path, content: Content) -> tuple[dict[str, NDArray[np.int64]], mmap.mmap]:
    """Map the index, and return the map too; DamagedFile unless it fits to cache.json."""
    path = folder / content.index["file"]
    with reading(path, "index of a latent cache", REMEDY):
        index, mapped = map_tensors(path)
        for names in (_SAMPLES, _PROMPTS):
            lengths = {len(index[name]) for name in names}
            if len(lengths) != 1 or 0 in lengths:
                raise ValueError("its arrays have several lengths, or none")
        shards = {number for kind, number in content.files if kind == "latents"}
        texts = {number for kind, number in content.files if kind == "text"}
        positions = index["text_position"]
        if (
            not _are_among(index["shard"], shards)
            or not _are_among(positions // content.shard_size, texts)
            or index["bucket"].min() < 0
            or index["bucket"].max() >= len(content.buckets)
            or index["position"].min() < 0
        ):
            raise ValueError("it names shards or buckets that are not there")
        let_go(mapped)
        return index, mapped


def let_go(mapped: mmap.mmap) -> None:
    """Keep no page of a map in memory after all of it was looked at; what is needed is read again."""
    mapped.madvise(mmap.MADV_DONTNEED)


def map_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], mmap.mmap]:
    """Map the arrays of a safetensors file, read only, and return the map too. The file is known to be whole."""
    with safe_open(path, framework="np"):  # checks the header
        pass
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    size = int.from_bytes(mapped[:8], "little")
    arrays = {}
    for name, entry in json.loads(mapped[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            kind = {"I64": "<i8", "F64": "<f8"}[entry["dtype"]]
            flat = np.frombuffer(mapped, kind, (end - begin) // 8, 8 + size + begin)
            arrays[name] = flat.reshape(entry["shape"])
    return arrays, mapped


def _are_among(numbers: NDArray[np.int64], known: set[int]) -> bool:
    """Say whether all numbers are known ones; much faster than the set of them for many."""
    if numbers.min() < 0 or numbers.max() > max(known, default=-1):
        return False
    return {*np.flatnonzero(np.bincount(numbers)).tolist()} <= known


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise TypeError
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def _texts(value: Any) -> dict[str, str]:
    return {_text(name): _text(text) for name, text in value.items()}


def _bucket(value: Any) -> Bucket:
    *frames, height, width = map(_count, value)
    if len(frames) > 1:
        raise TypeError
    return (*frames, height, width)
