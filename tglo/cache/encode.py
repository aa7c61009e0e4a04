"""Encodes the images and prompts of a shard. Unreadable images are set aside with the cause."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tglo.cache.format import Encoder, Quarantined, bucket_name
from tglo.data.buckets import Size, nearest_bucket
from tglo.data.errors import CacheError, ImageError
from tglo.data.images import cover_and_crop, decode_image, to_tensor
from tglo.data.manifest import Manifest, Row
from tglo.data.prefetch import in_order


@dataclass(frozen=True)
class PreparedImage:
    """An image cropped to its bucket, still 8-bit so that many can wait for a batch."""

    row: Row
    image: Image.Image
    bucket: Size
    crop: tuple[int, int]
    original: Size
    sha256: str  # of the encoded bytes


def prepare(manifest: Manifest, row: Row, buckets: Sequence[Size]) -> PreparedImage | Quarantined:
    """Open, decode and crop one image, or say why that is impossible."""
    try:
        data = manifest.open_image(row)
        image = decode_image(data)
    except ImageError as error:
        return Quarantined(row.line, row.image, str(error))
    bucket = nearest_bucket(image.height, image.width, buckets)
    image, crop, original = cover_and_crop(image, bucket)
    return PreparedImage(row, image, bucket, crop, original, hashlib.sha256(data).hexdigest())


def encode_latents(
    manifest: Manifest,
    encoder: Encoder,
    rows: Sequence[Row],
    buckets: Sequence[Size],
    batch_size: int,
    dtype: torch.dtype,
    pool: Executor,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Encode a shard's images.

    Returns tensors by name and bucket, such as mean.HxW (n, C, h, w), and the samples and quarantined
    images for its record.
    """
    stacks: dict[Size, list[dict[str, Tensor]]] = {}
    counts: dict[Size, int] = {}
    waiting: dict[Size, list[PreparedImage]] = {}
    samples: list[dict[str, Any]] = []
    quarantined: list[Quarantined] = []

    def encode(bucket: Size) -> None:
        batch = waiting.pop(bucket, [])
        if batch:
            stacks.setdefault(bucket, []).append(_encode_batch(encoder, batch, dtype))

    ready = in_order(pool, lambda row: prepare(manifest, row, buckets), rows, 2 * batch_size + 8)
    for result in ready:
        if isinstance(result, Quarantined):
            quarantined.append(result)
            continue
        bucket = result.bucket
        position = counts[bucket] = counts.get(bucket, -1) + 1
        samples.append(
            {
                "id": result.row.sample_id,
                "bucket": bucket,
                "position": position,
                "original": result.original,
                "crop": result.crop,
                "sha256": result.sha256,
            }
        )
        waiting.setdefault(bucket, []).append(result)
        if len(waiting[bucket]) == batch_size:
            encode(bucket)
    for bucket in sorted(waiting):
        encode(bucket)

    tensors = {}
    for bucket, batches in stacks.items():
        for name in batches[0]:
            tensors[f"{name}.{bucket_name(bucket)}"] = torch.cat([batch[name] for batch in batches])
    return tensors, {"samples": samples, "quarantined": [asdict(entry) for entry in quarantined]}


def _encode_batch(
    encoder: Encoder, batch: list[PreparedImage], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Encode a batch into tensors by name, floating-point ones in dtype. Errors are CacheError."""
    pixels = torch.stack([to_tensor(entry.image) for entry in batch])
    with torch.no_grad():
        encoded = {
            name: tensor.detach()
            .to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
            .contiguous()
            for name, tensor in encoder.encode(pixels).items()
        }
    shapes = {tuple(tensor.shape) for tensor in encoded.values()}
    fits = all(t.dim() == (4 if t.is_floating_point() else 3) for t in encoded.values())
    if len(shapes) != 1 or not fits or next(iter(shapes))[0] != len(batch):
        found = " and ".join(f"{name} {tuple(t.shape)}" for name, t in encoded.items())
        raise CacheError(
            f"the encoder returned {found} for {tuple(pixels.shape)} pixels; all must be "
            f"({len(batch)}, C, h, w), integer tokens ({len(batch)}, h, w)"
        )
    finite = torch.stack([t.isfinite().flatten(1).all(1) for t in encoded.values()]).all(0)
    if not finite.all():
        names = [entry.row.image for entry in batch]
        bad = [name for name, fine in zip(names, finite.tolist(), strict=True) if not fine]
        raise CacheError(
            f"the encoder returned NaN or inf (as {dtype}) for {bad}; run the VAE in float32"
        )
    return encoded


def encode_text(
    encoder: Encoder, prompts: Sequence[str], batch_size: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a shard's embeddings by name, (n, ...) each, as the encoder returns them; and their dtypes
    and shapes for its record.
    """
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(prompts), batch_size):
        batch = list(prompts[start : start + batch_size])
        with torch.no_grad():
            embeddings = encoder.text(batch)
        for name, tensor in embeddings.items():
            tensor = tensor.detach().to("cpu").contiguous()
            earlier = parts.setdefault(name, [])
            if len(tensor) != len(batch) or (earlier and tensor.shape[1:] != earlier[0].shape[1:]):
                raise CacheError(
                    f"the encoder returned {name} of shape {tuple(tensor.shape)} for {len(batch)} "
                    "prompts; every prompt must give the same shape (pad to a fixed length)"
                )
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise CacheError(f"the encoder returned NaN or inf in {name} for one of {batch}")
            earlier.append(tensor)
    shapes = {name: [str(t[0].dtype), *t[0].shape[1:]] for name, t in parts.items()}
    return {name: torch.cat(tensors) for name, tensors in parts.items()}, {"shapes": shapes}
