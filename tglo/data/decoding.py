"""Video files, opened and decoded by PyAV, one thread each; and folders of frames and images as videos."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BufferedIOBase
from typing import Any

from PIL import Image

from tglo.console.extras import install
from tglo.data.errors import ImageError
from tglo.data.frames import FrameFolder
from tglo.data.images import MAX_PIXELS, as_rgb, image_format
from tglo.data.pictures import Source, of_folder, of_image

VideoFile = BufferedIOBase | FrameFolder
INSTALL = f"videos need PyAV: {install('video')}"
_BACK = 10.0  # seconds before a clip from which it is decoded where a seek lands behind its start


def need_pyav() -> None:
    """Raise ModuleNotFoundError, which says what to install, where video files cannot be read or written."""
    pyav()


def pyav() -> Any:
    """Return the module; ModuleNotFoundError, which says what to install, without it."""
    try:
        import av
    except ImportError:
        raise ModuleNotFoundError(INSTALL) from None
    return av


@contextmanager
def opened(file: VideoFile, rate: float = 25.0) -> Iterator[Source]:
    """Open a video. What PyAV raises in the body, too, becomes an ImageError. rate: of a folder without one."""
    if isinstance(file, FrameFolder):
        yield of_folder(file, file.rate or rate)
    elif image_format(file) is not None:
        yield of_image(file)
    else:
        with _opened_file(file) as source:
            yield source


@contextmanager
def _opened_file(file: BufferedIOBase) -> Iterator[Source]:
    av = pyav()
    if not file.seek(0, os.SEEK_END):
        raise ImageError("it is empty, a file of 0 bytes; write or download it again")
    file.seek(0)
    try:
        with av.open(file, "r") as container:
            if not container.streams.video:
                raise ImageError(
                    f"it has no video, only {_kinds(container)}: it holds none, or is torn"
                )
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ImageError(
                    "its video cannot be decoded: either it is torn (copy it again), or this PyAV has no decoder "
                    "for it (convert it to H.264)"
                )
            stream.codec_context.thread_count = 1  # files are decoded beside each other
            yield _source(container, stream)
    except (av.FFmpegError, ValueError, EOFError, OSError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"cannot be decoded: {getattr(error, 'strerror', None) or error}; if it is a video, it is torn or "
            "damaged: copy it again"
        ) from None


def _source(container: Any, stream: Any) -> Source:
    shape = stream.sample_aspect_ratio or Fraction(1)
    return Source(
        _shown_size(stream),
        _seconds(container, stream),
        float(stream.average_rate or 25),
        lambda start: _decoded(container, stream, start),
        lambda frame: _picture(frame, shape),
    )


def check_pixels(height: int, width: int, shape: Fraction | int = 1) -> None:
    """Raise ImageError for a frame above the cap on pixels; shape: of a pixel, width to height."""
    if width * height * max(1, shape) > MAX_PIXELS:
        raise ImageError(
            f"{width} x {height} pixels are above the cap of {MAX_PIXELS} (max_pixels)"
        )


def _kinds(container: Any) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _seconds(container: Any, stream: Any) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is None:
        return None
    first = float((stream.start_time or 0) * stream.time_base)  # it counts from 0 on
    return max(0.0, container.duration / 1e6 - first)


def _shown_size(stream: Any) -> tuple[int, int]:
    """Return height and width with pixels that are not square made square; turned frames are turned later."""
    context = stream.codec_context
    if context.height < 1 or context.width < 1:
        raise ImageError("it says no size of its video: it is torn, or no video")
    shape = stream.sample_aspect_ratio or Fraction(1)
    return context.height, max(1, round(context.width * shape))


def _decoded(container: Any, stream: Any, start: float) -> Iterator[tuple[float, Any]]:
    """Yield (seconds since the video's first frame, frame), from the last one at or before `start` on."""
    first = (stream.start_time or 0) * stream.time_base
    origin = start
    while True:
        if (
            start > 0 and first >= 0
        ):  # what lies before 0 is in no index: such files are read from their start
            place = int((Fraction(max(0.0, origin)) + first) / stream.time_base)
            container.seek(place, stream=stream, backward=True)
        behind = False
        for number, frame in enumerate(container.decode(stream)):
            if frame.pts is None:
                continue
            seconds = float(frame.pts * stream.time_base - first)
            if number == 0 and seconds > start and origin > 0 and first >= 0:
                behind = True  # the index of key frames was wrong
                break
            yield seconds, frame
        if not behind:
            return
        origin -= _BACK


def _picture(frame: Any, shape: Fraction) -> Image.Image:
    """Convert a decoded frame to RGB, upright, its pixels made square. shape: of a pixel, width to height."""
    check_pixels(frame.height, frame.width, shape)  # they may change on the way
    image: Image.Image = frame.to_image()
    if any(part.is_alpha for part in frame.format.components):
        image = as_rgb(Image.fromarray(frame.to_ndarray(format="rgba")))
    if shape != 1:
        image = image.resize((max(1, round(image.width * shape)), image.height))
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image
