"""Turns encoded bytes into pixels: decode with caps, turn upright, cover a bucket, crop the centre."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from tglo.data.containers import MAX_BYTES
from tglo.data.errors import ImageError

MAX_PIXELS = 2**26  # 8192 x 8192; below the size at which PIL itself warns of a bomb
# PIL starts no other program for any of these.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def decode_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> Image.Image:
    """Decode an image to RGB: upright (EXIF), transparency put on white, 16 bits cut to 8.

    Of an animation the first frame is decoded; colour profiles are ignored. Raises ImageError if the
    bytes are truncated, corrupt, of an unknown format, or above a cap. The caps are checked on the
    header, before any pixel is decoded.
    """
    if len(data) > max_bytes:
        raise ImageError(f"{len(data)} bytes are above the cap of {max_bytes} (max_bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                f"{width} x {height} pixels are above the cap of {max_pixels} (max_pixels)"
            )
        image.load()
        return as_rgb(ImageOps.exif_transpose(image))
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # PIL raises nearly any type for corrupt data, bombs included
        text = "no known image format" if not data or "cannot identify" in str(error) else error
        raise ImageError(f"cannot be decoded: {text}") from None


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
    bucket's size is not resampled.
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
    if resized != original:
        image = image.resize((resized[1], resized[0]), Image.Resampling.LANCZOS)
    top, left = (resized[0] - height) // 2, (resized[1] - width) // 2
    if resized != bucket:
        image = image.crop((left, top, left + width, top + height))
    return image, (top, left), original


def to_tensor(image: Image.Image) -> Tensor:
    """Convert an RGB image to (3, H, W) float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.permute(2, 0, 1).to(torch.float32).div_(127.5).sub_(1.0).contiguous()
