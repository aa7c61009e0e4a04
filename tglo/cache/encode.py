"""Encodes the images and prompts of a shard. Unreadable images are set aside with the cause."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from tglo.cache.format import Encoder, Quarantined, bucket_name
from tglo.data import ragged
from tglo.data.buckets import Bucket, Size, nearest_bucket
from tglo.data.errors import CacheError, ImageError
from tglo.data.images import cover_and_crop, decode_image, to_tensor
from tglo.data.kinds import IS_VIDEO, is_video, video_kind
from tglo.data.manifest import Manifest, Row
from tglo.data.prefetch import in_order


@dataclass(frozen=True)
class PreparedImage:
    """An image, or the frames of a clip, cropped to its bucket, still 8-bit so that many can wait for a batch."""

    row: Row
    image: Image.Image | Sequence[Image.Image]
    bucket: Bucket
    crop: tuple[int, int]
    original: Size
    sha256: str  # of the encoded bytes
    is_whole: bool = False
    """A clip that has every frame of its video once."""

    def pixels(self) -> Tensor:
        """Return (3, H, W) float32 in [-1, 1], of a clip (3, F, H, W)."""
        if isinstance(self.image, Image.Image):
            return to_tensor(self.image)
        return torch.stack([to_tensor(frame) for frame in self.image], dim=1)

    @property
    def is_enlarged(self) -> bool:
        """Whether it has more pixels along a side than the image had."""
        return any(side > had for side, had in zip(self.bucket[-2:], self.original, strict=True))


Prepare = Callable[[Row], PreparedImage | Quarantined]
"""Opens, decodes and crops the image of a row, or says why that is impossible."""


@dataclass(frozen=True)
class Encoded:
    """An image that a shard has already: its entry in the record, and its tensors by name."""

    sample: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def prepare_image(
    manifest: Manifest, row: Row, buckets: Sequence[Size]
) -> PreparedImage | Quarantined:
    """Open, decode and crop one image, or say why that is impossible."""
    try:
        if is_video(row.image):  # it may be larger than an image may be
            with manifest.open_file(row) as file:
                kind = video_kind(file.read(16))
            if kind is not None:
                raise ImageError(IS_VIDEO.format(kind=kind))
        data = manifest.open_image(row)
        image = decode_image(data)
    except ImageError as error:
        return Quarantined(row.line, row.image, str(error))
    bucket = nearest_bucket(image.height, image.width, buckets)
    image, crop, original = cover_and_crop(image, bucket)
    return PreparedImage(row, image, bucket, crop, original, hashlib.sha256(data).hexdigest())


def encode_latents(
    prepare: Prepare,
    encoder: Encoder,
    rows: Sequence[Row],
    batch_size: int,
    dtype: torch.dtype,
    pool: Executor,
    kept: Mapping[int, Encoded] = MappingProxyType({}),
    look_at: Callable[[PreparedImage], None] = lambda image: None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Encode a shard's images, but those that are kept, by sample id. look_at: is shown each before.

    Returns tensors by name and bucket, such as mean.HxW (n, C, h, w), and the samples and quarantined
    images for its record.
    """
    places: dict[Bucket, list[dict[str, Tensor]]] = {}
    waiting: dict[Bucket, list[tuple[PreparedImage, dict[str, Tensor]]]] = {}
    samples: list[dict[str, Any]] = []
    quarantined: list[dict[str, Any]] = []

    def look(row: Row) -> Encoded | PreparedImage | Quarantined:
        return kept.get(row.sample_id) or prepare(row)

    def encode(bucket: Bucket) -> None:
        batch = waiting.pop(bucket, [])
        if batch:
            encoded = _encode_batch(encoder, [image for image, _ in batch], dtype)
            for number, (_, place) in enumerate(batch):
                place.update({name: tensor[number] for name, tensor in encoded.items()})

    for row, result in zip(rows, in_order(pool, look, rows, 2 * batch_size + 8), strict=True):
        if isinstance(result, Quarantined):
            quarantined.append({"id": row.sample_id, **asdict(result)})
            continue
        place: dict[str, Tensor] = {}
        if isinstance(result, Encoded):
            bucket = cast(Bucket, tuple(result.sample["bucket"]))
            samples.append(dict(result.sample))
            place.update(result.tensors)
        else:
            bucket = result.bucket
            look_at(result)
            samples.append(
                {
                    "id": row.sample_id,
                    "bucket": bucket,
                    "original": result.original,
                    "crop": result.crop,
                    "sha256": result.sha256,
                }
            )
            if result.is_whole:
                samples[-1]["whole"] = True
            waiting.setdefault(bucket, []).append((result, place))
        samples[-1]["position"] = len(places.setdefault(bucket, []))
        places[bucket].append(place)
        if len(waiting.get(bucket, ())) == batch_size:
            encode(bucket)
    for bucket in sorted(waiting):
        encode(bucket)

    for sample in samples:
        place = places[cast(Bucket, tuple(sample["bucket"]))][sample["position"]]
        sample["digest"] = digest_of(place, sample["original"], sample["crop"])
    tensors = {
        f"{name}.{bucket_name(bucket)}": torch.stack([place[name] for place in found])
        for bucket, found in places.items()
        for name in found[0]
    }
    return tensors, {"samples": samples, "quarantined": quarantined}


def digest_of(tensors: Mapping[str, Tensor], *sizes: Sequence[int]) -> str:
    """Return what tells one item's tensors and sizes from others: 128 bits, as a hex string."""
    digest = hashlib.sha256(repr([list(size) for size in sizes]).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _encode_batch(
    encoder: Encoder, batch: list[PreparedImage], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Encode a batch into tensors by name, floating-point ones in dtype. Errors are CacheError."""
    pixels = torch.stack([entry.pixels() for entry in batch])
    with torch.no_grad():
        encoded = {
            name: tensor.detach()
            .to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
            .contiguous()
            for name, tensor in encoder.encode(pixels).items()
        }
    shapes = {tuple(tensor.shape) for tensor in encoded.values()}
    dims = pixels.dim()
    fits = all(t.dim() == (dims if t.is_floating_point() else dims - 1) for t in encoded.values())
    if len(shapes) != 1 or not fits or next(iter(shapes))[0] != len(batch):
        found = " and ".join(f"{name} {tuple(t.shape)}" for name, t in encoded.items())
        raise CacheError(
            f"the encoder returned {found} for {tuple(pixels.shape)} pixels; all must be "
            f"({len(batch)}, C, {'F, ' * (dims == 5)}h, w), integer tokens without C"
        )
    finite = torch.stack([t.isfinite().flatten(1).all(1) for t in encoded.values()]).all(0)
    if not finite.all():
        names = [entry.row.image for entry in batch]
        bad = [name for name, fine in zip(names, finite.tolist(), strict=True) if not fine]
        raise CacheError(
            f"the encoder returned NaN or inf (as {dtype}) for {bad}: use --dtype fp32; if it is "
            "that already, the VAE's weights are damaged, download them again"
        )
    return encoded


@torch.no_grad()
def _texts(encoder: Encoder, batches: Sequence[list[str]]) -> Iterator[Mapping[str, Tensor]]:
    yield from encoder.texts(batches)


def encode_text(
    encoder: Encoder, prompts: Sequence[str], batch_size: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a shard's embeddings by name, (n, ...) each, as the encoder returns them; and their dtypes
    and shapes, and each prompt's digest, for its record. Those with a mask (tglo.data.ragged) are written
    without padding, one prompt after another.
    """
    whole: dict[
        str, Tensor
    ] = {}  # filled batch by batch: a list would hold all of it twice in the end
    shapes: dict[str, list[str | int]] = {}
    rows: list[dict[str, Tensor]] = []
    starts = range(0, len(prompts), batch_size)
    batches = [list(prompts[start : start + batch_size]) for start in starts]
    for start, batch, found in zip(starts, batches, _texts(encoder, batches), strict=True):
        embeddings = dict(found)
        if ragged.MASK in embeddings:
            embeddings = {name: tensor.to("cpu") for name, tensor in embeddings.items()}
            trimmed = [ragged.trimmed(prompt) for prompt in ragged.rows_of(embeddings)]
            rows += [{ragged.ROWS: prompt[ragged.ROWS]} for prompt in trimmed]
            del embeddings[ragged.MASK]
        for name, tensor in embeddings.items():
            tensor = tensor.detach().to("cpu").contiguous()
            of_tokens = bool(rows) and name == ragged.ROWS
            shape: list[str | int] = [str(tensor.dtype), *tensor.shape[1:]]
            if of_tokens:
                shape[1] = "tokens"
            if len(tensor) != len(batch) or shapes.setdefault(name, shape) != shape:
                raise CacheError(
                    f"the encoder returned {name} of shape {tuple(tensor.shape)} for {len(batch)} "
                    "prompts; every prompt must give the same shape (pad to a fixed length)"
                )
            if tensor.is_floating_point() and not tensor.isfinite().all():
                bad = [p for p, t in zip(batch, tensor, strict=True) if not t.isfinite().all()]
                raise CacheError(
                    f"the encoder returned NaN or inf in {name} for {bad}: use --dtype fp32; if it "
                    "is that already, the text encoder's weights are damaged, download them again"
                )
            if not of_tokens:
                if name not in whole:
                    whole[name] = tensor.new_empty(len(prompts), *tensor.shape[1:])
                whole[name][start : start + len(batch)] = tensor
    each = rows or [{} for _ in prompts]
    digests = [
        digest_of(prompt | {name: tensor[number] for name, tensor in whole.items()})
        for number, prompt in enumerate(each)
    ]
    return whole | ragged.joined(rows), {"shapes": shapes, "digests": digests}
