"""The sizes of images, read from their headers, and the aspect buckets that they would go to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from io import BufferedIOBase
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tglo.data.buckets import Size, bucket_step, make_buckets, nearest_bucket
from tglo.data.errors import ImageError, ManifestError
from tglo.data.images import FORMATS, decode_image
from tglo.data.manifest import Manifest, Row
from tglo.data.video import about
from tglo.look.sheet import Sheet, chosen

READ = 5_000
"""Images whose headers are read, at most."""
SHOWN = 10
ASSUMED = 1024
"""The resolution where none is given: `tglo cache` would take the model's own, which a manifest does not tell."""
Numbers = NDArray[np.int64]
_MODEL_STEP = 8
_ORIENTATION, _TURNED = 0x0112, range(5, 9)


@dataclass(frozen=True)
class BucketUse:
    """A bucket, the images that go to it, and those of them that are scaled up for it."""

    height: int
    width: int
    images: int
    enlarged: int


@dataclass(frozen=True)
class Sizes:
    """Of the `of` images that are there the headers of `read` were read; `unreadable` of those say no size.

    assumed: nobody has said the resolution. smallest, median, largest: height and width, by the number of pixels;
    None where no size is known.
    """

    of: int
    read: int
    unreadable: int
    unreadable_shown: dict[str, str]
    resolution: int
    assumed: bool
    smallest: Size | None
    median: Size | None
    largest: Size | None
    enlarged: int
    buckets: list[BucketUse]


def sizes(
    sheet: Sheet, present: Numbers, resolution: int | None, buckets: list[Size] | None = None
) -> Sizes:
    """Read the sizes of the images that are there (their numbers), of a part of them where they are many.

    buckets: those of a cache; by default those that `tglo cache` makes of the resolution. ValueError for one that
    it cannot take.
    """
    assumed, resolution = resolution is None, resolution if resolution is not None else ASSUMED
    if buckets is None:
        buckets = make_buckets(resolution, step=bucket_step(resolution, _MODEL_STEP))
    found: list[Size] = []
    unreadable: dict[str, str] = {}
    numbers = _numbers(sheet, present)
    for number in numbers:
        row = sheet.manifest.rows[sheet.first_of[number]]
        try:
            found.append(size_of(sheet.manifest, row))
        except (ImageError, ManifestError, ModuleNotFoundError, OSError) as error:
            unreadable[row.image] = (
                _why(sheet.manifest, row, error) if len(unreadable) < SHOWN else ""
            )
    found.sort(key=lambda size: size[0] * size[1])
    used = _used(found, buckets)
    return Sizes(
        of=int(present.size),
        read=len(numbers),
        unreadable=len(unreadable),
        unreadable_shown=dict(list(unreadable.items())[:SHOWN]),
        resolution=resolution,
        assumed=assumed,
        smallest=found[0] if found else None,
        median=found[len(found) // 2] if found else None,
        largest=found[-1] if found else None,
        enlarged=sum(bucket.enlarged for bucket in used),
        buckets=used,
    )


def size_of(manifest: Manifest, row: Row) -> Size:
    """Return height and width of a row's image as it is shown, or of its video. ImageError where there is none."""
    with manifest.open_file(row) as file:
        if manifest.is_video(row):
            found = about(file)
            return found.height, found.width
        return _header(cast(BufferedIOBase, file))


def _why(manifest: Manifest, row: Row, error: Exception) -> str:
    """Return what decoding says of an image whose header cannot be read."""
    if isinstance(error.__cause__, Exception):
        try:
            decode_image(manifest.open_image(row))
        except (ImageError, ManifestError) as found:
            return str(found)
    return str(error)


def _header(file: BufferedIOBase) -> Size:
    try:
        image = Image.open(cast("IO[bytes]", file), formats=FORMATS)
        turned = image.getexif().get(_ORIENTATION) in _TURNED
    except Exception as error:  # PIL raises nearly any type for corrupt data
        if isinstance(error, ImageError):
            raise
        raise ImageError("it is broken, or no image of a known format") from error
    return (image.width, image.height) if turned else (image.height, image.width)


def _numbers(sheet: Sheet, present: Numbers) -> list[int]:
    """Return the images that are looked at: by chance, but the first ones of Parquet files, which are read in order."""
    in_order = present.size and ".parquet#" in sheet.images[int(present[0])]
    listed: list[int] = present[slice(READ) if in_order else chosen(present.size, READ)].tolist()
    return listed


def _used(found: list[Size], buckets: list[Size]) -> list[BucketUse]:
    counts, enlarged = Counter[Size](), Counter[Size]()
    for size, number in Counter(found).items():
        bucket = nearest_bucket(*size, buckets)
        counts[bucket] += number
        scale = max(bucket[0] / size[0], bucket[1] / size[1])
        enlarged[bucket] += number * (scale > 1)
    return [
        BucketUse(*bucket, counts[bucket], enlarged[bucket])
        for bucket in sorted(counts, key=lambda size: float(np.divide(*size)))
    ]
