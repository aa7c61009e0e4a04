"""Videos that are pictures: a folder of frames, and an image, which is a video of one frame. And sides made even."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any

from PIL import Image

from tglo.data.containers import MAX_BYTES
from tglo.data.errors import ImageError
from tglo.data.frames import FrameFolder
from tglo.data.images import decode_image


@dataclass(frozen=True)
class Source:
    """An open video, whatever it is made of.

    size: height and width. seconds: its length, None if unknown. rate: frames per second, about.
    decoded: yields (seconds since the first frame, frame), from the last one at or before a time on.
    picture: makes such a frame an RGB image.
    """

    size: tuple[int, int]
    seconds: float | None
    rate: float
    decoded: Callable[[float], Iterator[tuple[float, Any]]]
    picture: Callable[[Any], Image.Image]
    is_image: bool = False


def of_folder(folder: FrameFolder, rate: float) -> Source:
    """Open a folder of frames, all of the first one's size; only frames that are asked for are decoded."""
    count, first = len(folder.names), _frame(folder, 0)

    def decoded(start: float) -> Iterator[tuple[float, int]]:
        for number in range(min(max(0, int(start * rate) - 1), count - 1), count):
            yield number / rate, number

    def picture(number: int) -> Image.Image:
        image = _frame(folder, number)
        if image.size != first.size:
            raise ImageError(
                f"its frames are of several sizes: {folder.names[0]} of {first.width} x {first.height} pixels and "
                f"{folder.names[number]} of {image.width} x {image.height}; scale them to one"
            )
        return image

    return Source((first.height, first.width), count / rate, rate, decoded, picture)


def of_image(file: BufferedIOBase) -> Source:
    """Open an image; of an animation the first frame."""
    image = decode_image(file.read(MAX_BYTES + 1))
    size = (image.height, image.width)
    return Source(size, 0.0, 1.0, lambda start: iter([(0.0, image)]), lambda frame: frame, True)


def even(image: Image.Image) -> Image.Image:
    """Return an image with odd sides made even by their last row or column again, as codecs need them."""
    height, width = image.height + image.height % 2, image.width + image.width % 2
    if (height, width) == (image.height, image.width):
        return image
    found = Image.new("RGB", (width, height))
    for x in {0, width - image.width}:
        for y in {0, height - image.height}:
            found.paste(image, (x, y))
    found.paste(image, (0, 0))
    return found


def _frame(folder: FrameFolder, number: int) -> Image.Image:
    name = folder.names[number]
    try:
        return decode_image(folder.read_frame(name))
    except ImageError as error:
        raise ImageError(f"its frame {name}: {error}") from None
