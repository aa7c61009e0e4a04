"""The shards of latents: which of their images are still as they were encoded, and the others anew."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import torch

from tglo.cache.encode import Encoded, Prepare, PreparedImage, encode_latents
from tglo.cache.format import Encoder, bucket_name
from tglo.cache.parts import Made
from tglo.cache.shards import Shard
from tglo.cache.sources import Seen, Sources
from tglo.data.errors import ImageError
from tglo.data.manifest import Manifest, Row

log = logging.getLogger("tglo")


def is_current(keys: Sequence[int], shard: Shard, images: dict[int, str], sources: Sources) -> bool:
    """Say whether the files of these samples' images are as they were when the shard was made.

    images: by sample id. An image that is no longer there cannot have changed.
    """
    seen = shard.seen()
    looks = ((sources.of(images[key]), seen.get(str(key))) for key in keys)
    return all(now is None or now == before for now, before in looks)


@dataclass
class ImageShards:
    """Makes the shards of a manifest's latents."""

    manifest: Manifest
    rows: Mapping[int, Row]  # by sample id
    encoder: Encoder
    prepare: Prepare
    batch_size: int
    dtype: torch.dtype
    pool: Executor
    sources: Sources
    encoded: int = 0
    gone: list[str] = field(default_factory=list)
    """Images of which only the latents are left."""
    enlarged: int = 0
    """How many images were smaller than their bucket."""

    def is_current(self, keys: Sequence[int], shard: Shard) -> bool:
        """See `tglo.cache.work.Job`."""
        return is_current(keys, shard, {key: self.rows[key].image for key in keys}, self.sources)

    def make(self, keys: Sequence[int], shard: Shard | None) -> Made:
        """Encode the images that are new, or have changed, or could not be read before."""
        now = {key: self.sources.of(self.rows[key].image) for key in keys}  # before they are read
        before = {} if shard is None else shard.seen()
        seen = {**before, **{str(key): look for key, look in now.items() if look is not None}}
        kept = {} if shard is None else self._kept(keys, shard, now)
        if shard is not None and not self._to_encode(keys, shard, kept):
            return Made(seen=None if seen == before else seen)
        rows = [self.rows[key] for key in keys]
        tensors, record = encode_latents(
            self.prepare,
            self.encoder,
            rows,
            self.batch_size,
            self.dtype,
            self.pool,
            kept,
            self._look_at,
        )
        self.encoded += len(record["samples"]) - len(kept)
        return Made(tensors, record, seen)

    def _look_at(self, image: PreparedImage) -> None:
        self.enlarged += image.is_enlarged
        if image.is_enlarged and self.enlarged == 1:
            (height, width), bucket = image.original, image.bucket[-2:]
            log.warning(
                "%s of %d x %d pixels is scaled up to cover %d x %d: if many images are small, stop this and "
                "take another folder and a lower --resolution",
                image.row.image, height, width, *bucket,
            )  # fmt: skip

    def _kept(self, keys: Sequence[int], shard: Shard, now: dict[int, Seen]) -> dict[int, Encoded]:
        """Return what the shard has of images that have not changed, by sample id."""
        wanted, seen, tensors = set(keys), shard.seen(), shard.tensors()
        known = [sample for sample in shard.record["samples"] if sample["id"] in wanted]

        def same(sample: dict[str, Any]) -> bool:
            key = sample["id"]
            if now[key] is None:
                self.gone.append(self.rows[key].image)
                return True
            return now[key] == seen.get(str(key)) or self._hash(key) == sample["sha256"]

        kept = {}
        for sample, fine in zip(known, self.pool.map(same, known), strict=True):
            if fine:
                ending = f".{bucket_name(tuple(sample['bucket']))}"
                kept[sample["id"]] = Encoded(
                    sample,
                    {
                        name.removesuffix(ending): tensor[sample["position"]]
                        for name, tensor in tensors.items()
                        if name.endswith(ending)
                    },
                )
        return kept

    def _hash(self, key: int) -> str | None:
        try:
            with self.manifest.open_file(self.rows[key]) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except ImageError:
            return None

    def _to_encode(self, keys: Sequence[int], shard: Shard, kept: dict[int, Encoded]) -> bool:
        """Say whether an image of the shard changed, or one that was set aside can be read now."""
        aside = {entry["id"] for entry in shard.record["quarantined"]}
        if any(key not in kept and key not in aside for key in keys):
            return True
        again = [self.rows[key] for key in keys if key in aside]
        return any(isinstance(found, PreparedImage) for found in self.pool.map(self.prepare, again))
