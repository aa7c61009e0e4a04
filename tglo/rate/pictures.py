"""What a browser is sent of a row: the file as it is where it can be shown, else a picture made of it.

An image is decoded before it is sent, as training does it: what training would set aside is told and not shown.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from tglo.data.errors import ImageError
from tglo.data.frames import FrameFolder
from tglo.data.images import FORMATS, decode_image
from tglo.data.kinds import video_kind
from tglo.data.manifest import Manifest, Row
from tglo.data.video_views import View, read_views

SIDE = 2048  # pixels of an image's longer side, above which it is scaled down to that
FRAME_SIDE, MOST_FRAMES = 768, 160  # of a video that is sent as a moving picture
KEPT_BYTES = 64 * 2**20  # of pictures that were made
AT_ONCE = 4  # images that are decoded: a large one takes 400 MB
IMAGES = {
    "AVIF": "image/avif",
    "BMP": "image/bmp",
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
}
VIDEOS = {"MP4 or MOV": "video/mp4", "Matroska or WebM": "video/webm", "Ogg": "video/ogg"}
"""Kinds that browsers show -> MIME types."""
_CHUNK = 2**18


class Picture(NamedTuple):
    """An image as a browser takes it, moving or not. kind: its MIME type."""

    data: bytes
    kind: str


class Film(NamedTuple):
    """A video file that is sent as it is, a piece at a time."""

    kind: str
    size: int
    piece: Callable[[int, int], Iterator[bytes]]
    """(first byte, the one after the last) -> its bytes in chunks."""


@dataclass
class Pictures:
    """Makes what is sent of a manifest's rows. May be used from several threads."""

    manifest: Manifest

    def __post_init__(self) -> None:
        self._made: OrderedDict[int, Picture] = OrderedDict()
        self._lock, self._turns = threading.Lock(), threading.Semaphore(AT_ONCE)

    def of(self, row: Row, still_moving: bool = False) -> Picture | Film:
        """Return what is sent of a row. still_moving: a moving picture even of a film that browsers may play.

        Raises ImageError for what cannot be shown, ManifestError for what lies outside the data folder.
        """
        with self._lock:
            if found := self._made.get(row.sample_id):
                return found
        is_video = self.manifest.is_video(row)
        if is_video and not still_moving and (film := self._film(row)):
            return film
        with self._turns:
            return self._moving(row) if is_video else self._still(row)

    def _still(self, row: Row) -> Picture:
        data = self.manifest.open_image(row)
        return _sent_as_is(data) or self._keep(row, _made_over(data))

    def _moving(self, row: Row) -> Picture:
        with self.manifest.open_file(row) as file:
            return self._keep(row, _moving(file))

    def _keep(self, row: Row, made: Picture) -> Picture:
        with self._lock:
            self._made[row.sample_id] = made
            while sum(len(one.data) for one in self._made.values()) > KEPT_BYTES:
                self._made.popitem(last=False)
        return made

    def _film(self, row: Row) -> Film | None:
        """Return a video file that browsers may play, None for other files and for folders of frames."""
        with self.manifest.open_file(row) as file:
            if isinstance(file, FrameFolder):
                return None
            kind = VIDEOS.get(video_kind(file.read(16)) or "")
            size = file.seek(0, io.SEEK_END)
        if kind is None:
            return None

        def piece(start: int, stop: int) -> Iterator[bytes]:
            with suppress(ImageError), self.manifest.open_file(row) as file:
                file.seek(start)
                while start < stop and (chunk := file.read(min(_CHUNK, stop - start))):
                    start += len(chunk)
                    yield chunk

        return Film(kind, size, piece)


def _sent_as_is(data: bytes) -> Picture | None:
    """Return an image that a browser shows as training sees it, None for others: training takes the first of several
    frames, and puts what is transparent on white.
    """
    decode_image(data)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        kind = IMAGES.get(image.format or "")
        other = getattr(image, "is_animated", False) or image.has_transparency_data
        if kind is None or other or max(image.size) > SIDE:
            return None
    return Picture(data, kind)


def _made_over(data: bytes) -> Picture:
    """Return an image as training sees it, without loss unless it has to be smaller."""
    image, file = decode_image(data), io.BytesIO()
    if max(image.size) <= SIDE:
        image.save(file, "PNG", compress_level=1)
        return Picture(file.getvalue(), "image/png")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.save(file, "JPEG", quality=92, subsampling=0)
    return Picture(file.getvalue(), "image/jpeg")


def _moving(file: io.BufferedIOBase | FrameFolder) -> Picture:
    """Return a video as a moving picture, of all its frames or evenly of as many as it may have."""

    def choose(count: int, rate: float) -> list[float]:
        frames = min(count, MOST_FRAMES)
        return [number * count / frames for number in range(frames)]

    def smaller(image: Image.Image) -> Image.Image:
        image = image.copy()
        image.thumbnail((FRAME_SIDE, FRAME_SIDE))
        return image

    video = read_views(file, [View(choose, smaller)])[0]
    first, *rest = video.frames
    made = io.BytesIO()
    first.save(
        made,
        "WEBP",
        save_all=True,
        append_images=rest,
        duration=max(10, round(1000 / video.rate)),
        loop=0,
        quality=80,
        method=0,
    )
    return Picture(made.getvalue(), "image/webp")
