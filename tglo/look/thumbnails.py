"""Small pictures of the images and videos that a page shows."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from tglo.data.errors import ImageError, ManifestError
from tglo.data.images import decode_image
from tglo.data.manifest import Manifest, Row
from tglo.data.video_views import read_frames
from tglo.pages.render import picture

SIDE = 256
"""Pixels of the longer side, at most."""
_PLAIN = 64
"""Sides up to which an image is kept as it is, in PNG."""
_PROBLEMS = (ImageError, ManifestError, ModuleNotFoundError, MemoryError, OSError)


@dataclass(frozen=True)
class Thumbnail:
    """A picture's address, or why there is none. small: it is shown enlarged, pixel by pixel."""

    source: str
    problem: str = ""
    video: bool = False
    small: bool = False


def thumbnail(manifest: Manifest, row: Row) -> Thumbnail:
    """Return a row's image, or the frame in the middle of its video; what cannot be read says why."""
    video = False
    try:
        video = manifest.is_video(row)
        image = _frame(manifest, row) if video else decode_image(manifest.open_image(row))
    except _PROBLEMS as error:
        return Thumbnail("", f"{row.image}: {error}", video)
    if max(image.size) <= _PLAIN:
        return Thumbnail(picture(_encoded(image, "PNG")), video=video, small=True)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return Thumbnail(picture(_encoded(image, "JPEG"), "image/jpeg"), video=video)


def _frame(manifest: Manifest, row: Row) -> Image.Image:
    with manifest.open_file(row) as file:
        return read_frames(file, 1).frames[0]


def _encoded(image: Image.Image, kind: str) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, quality=82, optimize=True)
    return data.getvalue()
