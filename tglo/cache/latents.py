"""Reads the latents and embeddings of a manifest from disk, by memory map."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tglo.cache.content import REMEDY, let_go, read_content, read_index
from tglo.cache.format import bucket_name, text_key
from tglo.cache.index import lookup
from tglo.cache.shards import Shard, check_file, check_fingerprint, read_record, shard_name
from tglo.coded import Coded, numbered
from tglo.data import ragged
from tglo.data.buckets import Bucket, Size
from tglo.data.errors import CacheError

OPEN_SHARDS = 64  # mapped at a time
SIZES = ("original_size", "crop", "target_size")
"""The sizes in a batch beside the image itself, (B, 2) int64 each."""


def _digest(columns: Iterable[NDArray[np.int64]], places: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for column in columns:
        for start in range(0, len(places), 2**17):
            part = column[places[start : start + 2**17]]
            digest.update(np.ascontiguousarray(part, dtype="<i8").data)
    return digest.hexdigest()


class LatentCache:
    """A complete cache, made by `build_cache`. Only the index (about 100 bytes a sample) is in memory.

    fingerprint: everything that the bytes depend on, by field (see `fingerprint_of`).
    quarantined: the images that could not be used; `has` tells which samples are here.

    Opening checks the size of every file and the checksum of the index; `verify` checks all checksums.
    Raises CacheError or DamagedFile naming the file that is missing, cut or changed. A cache may be
    used from several threads, forked, and pickled.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._content = read_content(self.path)
        self._index, self._mapped = read_index(self.path, self._content)
        self._files = self._content.files
        self.fingerprint = self._content.fingerprint
        self.quarantined = self._content.quarantined
        self.rows = self._content.rows
        self._open: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._index["sample_id"])

    def __reduce__(self) -> tuple[type[LatentCache], tuple[Path]]:
        return LatentCache, (self.path,)

    def check(self, fingerprint: Mapping[str, str]) -> None:
        """Raise CacheError naming every given field that differs, with both values.

        Give `fingerprint_of(...)` for everything, `encoder.fingerprint()` for the model alone.
        """
        if "family" in fingerprint and "prompt_chunks" in self.fingerprint:
            fingerprint = {"prompt_chunks": "1", **fingerprint}  # which others do not say
        check_fingerprint(self.path, self.fingerprint, fingerprint)

    @property
    def has_digests(self) -> bool:
        """Whether each sample has a digest of its own: not in caches of format 1."""
        return "digest" in self._index and "text_digest" in self._index

    def content(
        self,
        sample_ids: Sequence[int] | NDArray[np.int64] | None = None,
        prompts: Sequence[str] | None = None,
    ) -> dict[str, str]:
        """Return digests of the latents (with sizes and crops) and of the embeddings, by name.

        Of these samples and prompts only, by default of all; the same in every cache that has the same
        of them, however it was made. In a cache of format 1 always of its files.
        """
        if not self.has_digests:
            return self._content_of_files()
        samples: NDArray[Any] = np.arange(len(self))
        if sample_ids is not None:
            samples = np.sort(self._find(sample_ids))
        texts: NDArray[Any] = np.arange(len(self._index["text_key"]))
        if prompts is not None:
            texts = np.unique(self._find_texts(prompts))
        names = {"latents": ("sample_id", "digest"), "embeddings": ("text_key", "text_digest")}
        found = {
            kind: _digest((self._index[name] for name in names[kind]), places)
            for kind, places in (("latents", samples), ("embeddings", texts))
        }
        let_go(self._mapped)
        return found

    def inputs(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what tells each sample's latents, sizes and embeddings from others, (B, 4) int64."""
        places = self._find(sample_ids)
        positions, order = self._text_order
        at, _ = lookup(positions, self._index["text"][places])
        parts = [self._index["digest"][places], self._index["text_digest"][order[at]]]
        return np.concatenate(parts, axis=1)

    def prompt_keys(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the identity of each sample's prompt in [0, 2^63), (B,) int64; the same in every cache."""
        positions, order = self._text_order
        at, _ = lookup(positions, self._index["text"][self._find(sample_ids)])
        return self._index["text_key"][order[at]]

    @functools.cached_property
    def _text_order(self) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """The positions of all prompts, ascending, and their places in the index."""
        order = np.argsort(self._index["text_position"])
        return self._index["text_position"][order], order

    def entries(self) -> list[dict[str, Any]]:
        """Return name, size and checksum of every shard."""
        return self._content.shards

    def verify(self) -> None:
        """Read everything once; raise CacheError naming the first file that fails its checksum."""
        for entry in self.entries():
            check_file(self.path, entry, checksum=True)

    def sample_ids(self) -> NDArray[np.int64]:
        """Return the ids of all samples in the cache, (N,) int64, ascending."""
        return self._index["sample_id"].copy()

    def has(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (B,) bool: True for samples in the cache. Quarantined ones are not in it."""
        return lookup(self._index["sample_id"], np.asarray(sample_ids, dtype=np.int64))[1]

    def buckets(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> list[Bucket]:
        """Return the bucket (H, W) of each sample, of videos (F, H, W), for `BatchSampler`."""
        return list(self.bucket_codes(sample_ids))

    def bucket_codes(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> Coded[Bucket]:
        """Return `buckets` as the different ones and a code for each sample: for many samples."""
        codes = self._index["bucket"][self._find(sample_ids)]
        return Coded(self._content.buckets, codes.astype(np.int32))

    def original_sizes(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> list[Size]:
        """Return the size (H, W) that each image had before it was fitted to its bucket."""
        return [(h, w) for h, w in self._index["original"][self._find(sample_ids)].tolist()]

    def are_whole(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (B,) bool: True for clips that have every frame of their video once."""
        places = self._find(sample_ids)
        whole = self._index.get("whole", np.zeros(len(self), dtype=np.int64))
        return whole[places] != 0

    def batch(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> dict[str, Tensor]:
        """Return the encoded images and their sizes, on the CPU.

        The images are mean and std (B, C, h, w), of videos (B, C, F, h, w), or tokens (B, h, w); the sizes
        are original_size, crop and target_size, (B, 2) int64. Raises CacheError for a sample that is not in
        the cache, and ValueError for samples of several buckets.
        """
        places = self._find(sample_ids)
        numbers = np.unique(self._index["bucket"][places])
        if len(numbers) != 1:
            sizes = [self._content.buckets[i] for i in numbers]
            raise ValueError(f"a batch needs samples of one bucket, got {len(places)} of {sizes}")
        bucket = self._content.buckets[numbers[0]]
        shards = self._index["shard"][places].tolist()
        rows = self._index["position"][places].tolist()
        located = [(self._files["latents", s], row) for s, row in zip(shards, rows, strict=True)]
        ending = f".{bucket_name(bucket)}"
        names = [name for name in self._shard(located[0][0]) if name.endswith(ending)]
        return {
            **{name.removesuffix(ending): self._gather(name, located) for name in names},
            "original_size": torch.from_numpy(self._index["original"][places]),
            "crop": torch.from_numpy(self._index["crop"][places]),
            "target_size": torch.tensor([bucket[-2:]] * len(places), dtype=torch.int64),
        }

    def text(self, samples: Sequence[str] | Sequence[int] | NDArray[Any]) -> dict[str, Tensor]:
        """Return the embeddings of prompts or of sample ids by name, (B, ...) each."""
        if len(samples) == 0:
            raise ValueError("text of no samples: give at least one prompt or sample id")
        if isinstance(samples[0], str):
            places = self._find_prompts(cast("Sequence[str]", samples))
        else:
            places = self._index["text"][self._find(cast("Sequence[int]", samples))]
        size = self._content.shard_size
        located = [(self._files["text", p // size], p % size) for p in places.tolist()]
        names = sorted(self._shard(located[0][0]))
        if ragged.STARTS not in names:
            return {name: self._gather(name, located) for name in names}
        others = [name for name in names if name not in (ragged.ROWS, ragged.STARTS)]
        prompts = [ragged.prompt_of(self._shard(file), row) for file, row in located]
        return ragged.stack(prompts) | {name: self._gather(name, located) for name in others}

    def check_encoders(self, fingerprint: Mapping[str, str]) -> None:
        """Raise CacheError unless the cache was made by these encoders, with the LoRA that they have, if any."""
        bare = {"text_lora": "none"} if "text_lora" in self.fingerprint else {}
        self.check({**bare, **fingerprint})

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raise CacheError unless the cache has every prompt's embedding."""
        self._find_prompts(prompts)

    def unconditional(self) -> dict[str, Tensor]:
        """Return the embeddings of the empty prompt, (1, ...) each, for caption dropout and guidance."""
        return self.text([""])

    def records(self) -> Iterator[Shard]:
        """Yield the shards of latents with their records; CacheError if one is damaged."""
        for kind, number in self._files:
            if kind == "latents":
                name = shard_name(kind, number)
                record = read_record(self.path, name)
                if record is None:
                    raise CacheError(f"{self.path / name}.json is damaged; {REMEDY}")
                yield Shard(self.path, name, record)

    def _content_of_files(self) -> dict[str, str]:
        digests = {"latents": [self._content.index["sha256"]], "embeddings": []}
        for entry in self.entries():
            kind = "latents" if entry["file"].startswith("latents-") else "embeddings"
            digests[kind].append(entry["sha256"])
        return {k: hashlib.sha256("".join(v).encode()).hexdigest() for k, v in digests.items()}

    def _find(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        ids = np.asarray(sample_ids, dtype=np.int64)
        if ids.ndim != 1 or ids.size == 0:
            raise ValueError(f"sample ids must have shape (B,) with B > 0, got {ids.shape}")
        place, here = lookup(self._index["sample_id"], ids)
        if not here.all():
            raise CacheError(
                f"{int((~here).sum())} samples are not in the cache {self.path} (ids "
                f"{ids[~here][:10].tolist()}; {len(self.quarantined)} images were quarantined): "
                "leave them out (`has` tells which), or make the cache from this manifest"
            )
        return place

    def _find_prompts(self, prompts: Sequence[str]) -> NDArray[np.int64]:
        return self._index["text_position"][self._find_texts(prompts)]

    def _find_texts(self, prompts: Sequence[str]) -> NDArray[np.int64]:
        names, numbers = numbered(prompts)
        keys = np.array([text_key(prompt) for prompt in names], dtype=np.int64)[numbers]
        place, here = lookup(self._index["text_key"], keys)
        missing = np.flatnonzero(~here)
        if missing.size:
            raise CacheError(
                f"the cache {self.path} has no embedding of {prompts[missing[0]]!r} "
                f"({missing.size} of {len(prompts)} prompts); make it from a manifest with them"
            )
        return place

    def _gather(self, name: str, located: Sequence[tuple[str, int]]) -> Tensor:
        # A copy, even of one row: no view of the map leaves this class.
        try:
            return torch.stack([self._shard(file)[name][row] for file, row in located])
        except (KeyError, IndexError) as error:
            raise CacheError(
                f"{self.path} has no {name} of a sample that its index names ({error}); {REMEDY}"
            ) from None

    def _shard(self, file: str) -> dict[str, Tensor]:
        """Return a shard's tensors as views of its memory map: only pages of rows in use are read."""
        with self._lock:
            if file in self._open:
                self._open.move_to_end(file)
                return self._open[file]
            path = self.path / file
            try:
                with safe_open(path, framework="pt") as opened:
                    shard = {key: opened.get_tensor(key) for key in opened.keys()}
            except (SafetensorError, OSError) as error:
                raise CacheError(f"{path} is torn ({error}); {REMEDY}") from None
            self._open[file] = shard
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
            return shard
