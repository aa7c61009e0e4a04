"""Turns encoded bytes into pixels: decode with caps, turn upright, cover a bucket, crop the centre."""

from __future__ import annotations

import io
import math
from io import BufferedIOBase
from typing import IO, cast

import numpy as np
import torch
from PIL import Image, ImageOps, features
from torch import Tensor

from tglo.data.containers import MAX_BYTES
from tglo.data.errors import ImageError
from tglo.data.kinds import IS_VIDEO, video_kind

MAX_PIXELS = 2**26  # 8192 x 8192; below the size at which PIL itself warns of a bomb
# PIL starts no other program for any of these.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
_LONG = 16  # images that cover so many times a bucket's area are scaled within the crop alone
_PNG = b"\x89PNG\r\n\x1a\n"
# Text and colour profiles: nothing of the pixels.
_ANCILLARY = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF"}


def decode_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> Image.Image:
    """Decode an image to RGB: upright (EXIF), transparency put on white, 16 bits cut to 8.

    Of an animation the first frame is decoded; colour profiles are ignored. Raises ImageError if the
    bytes are truncated, corrupt, of an unknown format, or above a cap. The caps are checked on the
    header, before any pixel is decoded. Text and colour profiles of a PNG may be of any size: they are
    left out where PIL refuses them.
    """
    if len(data) > max_bytes:
        raise ImageError(f"{len(data)} bytes are above the cap of {max_bytes} (max_bytes)")
    try:
        return _decode(data, max_pixels)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # PIL raises nearly any type for corrupt data, bombs included
        if data.startswith(_PNG) and "MAX_TEXT" in str(error):
            return decode_image(_without_text(data), max_pixels=max_pixels, max_bytes=max_bytes)
        raise ImageError(f"cannot be decoded: {_reason(data, error)}") from None


def image_format(file: BufferedIOBase) -> str | None:
    """Return the format of the image that a file is, None if it is none; it is left at its start."""
    file.seek(0)
    try:
        return Image.open(cast("IO[bytes]", file), formats=FORMATS).format
    except Exception:  # see decode_image
        return None
    finally:
        file.seek(0)


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{width} x {height} pixels are above the cap of {max_pixels} (max_pixels)"
        )
    image.load()
    return as_rgb(ImageOps.exif_transpose(image))


def _reason(data: bytes, error: Exception) -> str:
    """Say why PIL could not decode an image."""
    if data and "cannot identify" not in str(error):
        return str(error)
    kind = _BRANDS.get(data[8:12]) if data[4:8] == b"ftyp" else None
    if kind == "AVIF" and not features.check("avif"):
        return "it is an AVIF, which this Pillow was built without: pip install --upgrade pillow"
    if kind in ("HEIC", "HEIF"):
        return f"{kind} is not read; convert it to PNG, JPEG, WebP or AVIF"
    video = video_kind(data[:16])
    return "no known image format" if video is None else IS_VIDEO.format(kind=video)


def _without_text(data: bytes) -> bytes:
    """Return a PNG without its text and its colour profile."""
    kept, place = [_PNG], len(_PNG)
    while place + 8 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] not in _ANCILLARY:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB: transparency on white, 16 bits cut to 8, else as PIL does.

    Raises ImageError for floating-point pixels and for integers beyond 16 bits.
    """
    if image.mode == "F":
        raise ImageError("holds floating-point pixels, which have no defined white")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageError(f"holds grey values from {grey.min()} to {grey.max()}, not 16 bits")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def cover_and_crop(
    image: Image.Image, bucket: tuple[int, int]
) -> tuple[Image.Image, tuple[int, int], tuple[int, int]]:
    """Scale an image until it covers the bucket (H, W), antialiased, and crop the centre.

    Returns the crop, its (top, left) in the scaled image, and the image's (height, width) before
    scaling: the coordinates of SDXL's time ids (arXiv 2307.01952, section 2.2). An image that has the
    bucket's size is not resampled. Of a long thin image only the crop is, which gives the same pixels.
    """
    if min(bucket) < 1 or not all(math.isfinite(side) for side in bucket):
        raise ValueError(f"a bucket is (height, width) of at least 1, got {bucket}")
    height, width = bucket
    original = (image.height, image.width)
    scale = max(height / image.height, width / image.width)
    resized = (
        max(height, round(image.height * scale)),
        max(width, round(image.width * scale)),
    )
    top, left = (resized[0] - height) // 2, (resized[1] - width) // 2
    if (
        resized[0] * resized[1] > _LONG * height * width
    ):  # of a long thin image, to bound the memory
        y, x = image.height / resized[0], image.width / resized[1]
        right = min(image.width, (left + width) * x)
        box = (left * x, top * y, right, min(image.height, (top + height) * y))
        return image.resize((width, height), Image.Resampling.LANCZOS, box), (top, left), original
    if resized != original:
        image = image.resize((resized[1], resized[0]), Image.Resampling.LANCZOS)
    if resized != bucket:
        image = image.crop((left, top, left + width, top + height))
    return image, (top, left), original


def to_tensor(image: Image.Image) -> Tensor:
    """Convert an RGB image to (3, H, W) float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.permute(2, 0, 1).to(torch.float32).div_(127.5).sub_(1.0).contiguous()
