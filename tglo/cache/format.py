"""The cache on disk: the files in its folder, and what they depend on.

fingerprint.json              everything that the bytes depend on but rows and images; written first
text-00000.safetensors        embeddings of shard_size distinct prompts ("" is the first); those with a
                              mask without padding, one after another
text-00000.json               the shard's record: name, size, sha256, the prompts' keys and digests
latents-00000.safetensors     mean.HxW and std.HxW (for masked models tokens.HxW, for videos mean.FxHxW)
                              of shard_size images, stacked
latents-00000.json            the shard's record: samples and quarantined images
latents-00000.sources.json    size and time of the images' files when they were encoded
index.safetensors             sample id -> shard, bucket, position, sizes, prompt, digest
cache.json                    written last: names all files that belong together
.latents-00000.claim          while a process makes that shard: which one (tglo.files.claims)

A file that takes the place of another has a part of its checksum in its name. In a new folder images
are sorted by name and prompts by text; in one that was extended, what came later follows.
Format 1 had no digests, and no checksum in its JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tglo.data.buckets import Bucket, bucket_step, make_buckets
from tglo.data.errors import CacheError
from tglo.files import read_json
from tglo.settings import ClipOptions

FORMAT = "tglo.cache"
LAST = "cache.json"
FINGERPRINT = "fingerprint.json"
VERSIONS = (1, 2)
"""The formats that can be read; the last is written."""
DTYPES = ("float32", "float16", "bfloat16")


class Encoder(Protocol):
    """The part of a model family that the cache needs."""

    @property
    def bucket_step(self) -> int:
        """The number of pixels that a bucket's sides must be multiples of."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """Return all that latents and embeddings depend on: family, hashes of weights and configs."""
        ...

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Encode pixels (B, 3, H, W) float32 in [-1, 1], of videos (B, 3, F, H, W), into tensors by name,
        (B, ...) each.

        They are mean and std (B, C, h, w) of the scaled posterior, of videos (B, C, F, h, w), or tokens
        (B, h, w) of an integer dtype.
        """
        ...

    def text(self, prompts: list[str]) -> dict[str, Tensor]:
        """Return embeddings by name, (B, ...) each; shapes beyond B must not depend on the prompts, unless
        there is a mask (tglo.data.ragged).
        """
        ...

    def texts(self, batches: Sequence[Sequence[str]]) -> Iterator[dict[str, Tensor]]:
        """Yield `text` of each batch."""
        ...


def bucket_name(bucket: Bucket) -> str:
    """Return the bucket's name in names of tensors: HxW, of videos FxHxW."""
    return "x".join(map(str, bucket))


def text_key(prompt: str) -> int:
    """Return the identity of a prompt in [0, 2^63)."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") >> 1


def choose_buckets(
    encoder: Encoder, resolution: int, buckets: bool, frames: Sequence[int] = ()
) -> list[Bucket]:
    """Return the buckets of a cache, or only the square one if `buckets` is False.

    frames: of videos, how many a clip may have; each with every size.
    """
    step = bucket_step(resolution, encoder.bucket_step)
    sizes = make_buckets(resolution, step=step, max_aspect=2.0 if buckets else 1.0)
    if not frames:
        return [*sizes]
    return [(count, *size) for count in frames for size in sizes]


def fingerprint_of(
    encoder: Encoder,
    resolution: int,
    buckets: bool = True,
    shard_size: int = 512,
    dtype: torch.dtype = torch.float32,
    markers: Sequence[str] = (),
    clips: ClipOptions | None = None,
    vae_tiling: bool = False,
) -> dict[str, str]:
    """Return all that a cache's bytes depend on but its rows and the images' bytes, which it records.

    clips: resolved, of a model of videos. vae_tiling: the encoder works in tiles.
    """
    dtype_name = str(dtype).removeprefix("torch.")
    if dtype_name not in DTYPES:
        raise TypeError(f"latents are stored as one of {list(DTYPES)}, not {dtype}")
    frames = () if clips is None else clips.frames
    sizes = choose_buckets(encoder, resolution, buckets, frames)
    own = {
        "cache_format": str(VERSIONS[-1]),
        "resolution": str(resolution),
        "buckets": " ".join(map(bucket_name, sizes)),
        "dtype": dtype_name,
        "shard_size": str(shard_size),
    }
    if markers:  # absent otherwise, so that caches made before markers existed stay valid
        own["markers"] = json.dumps(sorted(markers))
    if vae_tiling:
        own["vae_tiling"] = "on"
    if clips is not None:
        own["clip"] = f"{clips.clip}, {clips.frame_rate:g} frames per second"
        if clips.source_rate is not None:
            own["source_rate"] = f"{clips.source_rate:g}"
    model = encoder.fingerprint()
    if model.keys() & own.keys():
        raise ValueError(f"the encoder's fingerprint may not have fields named {sorted(own)}")
    return {**model, **own}


def check_format(folder: Path) -> None:
    """Raise CacheError for a cache of format 1, which cannot be extended."""
    path = folder / FINGERPRINT
    found = read_json(path, "latent cache", "give another folder") if path.is_file() else {}
    if isinstance(found, dict) and found.get("cache_format") == "1":
        raise CacheError(
            f"{folder} has cache format version 1, written by an earlier tglo. It can be trained on, but "
            "images and rows cannot be compared with it: make a cache in another folder"
        )


@dataclass(frozen=True)
class Quarantined:
    """An image that was set aside, and why."""

    line: int
    image: str
    cause: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.image}: {self.cause}"


def list_quarantined(entries: Sequence[Quarantined], shown: int = 20) -> str:
    """Return text for an error or a report, with at most `shown` entries."""
    lines = [str(entry) for entry in entries[:shown]]
    if len(entries) > shown:
        lines.append(f"and {len(entries) - shown} more")
    return "; ".join(lines)
