"""Videos: a clip of a file at a frame rate, and files written from frames.

A clip's frames lie at start + k / rate; each is the one that a player would show then. So files of any
rate, also a variable one, give clips of the rate that a model was trained on. Only frames of the clip are
kept in memory, and decoding starts at the last key frame before it, however long the file is.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BufferedIOBase
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from PIL import Image

from tglo.data.errors import ImageError
from tglo.data.images import MAX_PIXELS

if TYPE_CHECKING:
    import av

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
"""Endings of the files that are taken for videos."""
INSTALL = "videos need PyAV: pip install 'tglo[video]'"
# Hardly to be told from the frames. Without B-frames and lookahead, because what x264 chooses by them in small
# videos depends on what was in memory before, and the bytes would be others each time.
_QUALITY = {
    "crf": "12",
    "preset": "medium",
    "x264-params": "bframes=0:rc-lookahead=0:mbtree=0:scenecut=0:weightp=0",
}
_TICK = 1e-3  # seconds: what times of frames are rounded to in some files
_BACK = 10.0  # seconds before a clip from which it is decoded where a seek lands behind its start


@dataclass(frozen=True)
class Video:
    """Frames in their order, RGB and of one size, and how many of them are a second."""

    frames: Sequence[Image.Image]
    rate: float

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.frames[0].height, self.frames[0].width


@dataclass(frozen=True)
class Clip:
    """The clip that is taken of a video: frames at a rate (frames per second), from its start or middle."""

    frames: int
    rate: float
    place: Literal["start", "middle"] = "middle"

    @property
    def seconds(self) -> float:
        """From the first frame to the last."""
        return (self.frames - 1) / self.rate


@dataclass(frozen=True)
class About:
    """What a file says of its video: size in pixels as it is shown, and seconds, None if unknown."""

    height: int
    width: int
    seconds: float | None


def about(file: BufferedIOBase) -> About:
    """Read a video file's size and length; ImageError if there is no video in it."""
    with _opened(file) as (container, stream):
        height, width = _shown_size(stream)
        return About(height, width, _seconds(container, stream))


def read_clip(
    file: BufferedIOBase,
    clip: Clip,
    change: Callable[[Image.Image], Image.Image] = lambda image: image,
) -> Video:
    """Decode a clip. file: seekable, opened in binary mode; change: what is done to each frame, so that large
    ones need not be kept.

    Raises ImageError for a file that is broken, without video, or shorter than the clip, and for frames
    above the cap on pixels.
    """
    with _opened(file) as (container, stream):
        height, width = _shown_size(stream)
        if height * width > MAX_PIXELS:
            raise ImageError(
                f"{width} x {height} pixels are above the cap of {MAX_PIXELS} (max_pixels)"
            )
        whole = _seconds(container, stream)
        start = 0.0
        if clip.place == "middle" and whole is not None:
            start = max(0.0, (whole - clip.seconds) / 2)
        times = [start + number / clip.rate for number in range(clip.frames)]
        shape = stream.sample_aspect_ratio or Fraction(1)
        found = _frames_at(
            times,
            _decoded(container, stream, start),
            lambda frame: change(_picture(frame, shape)),
            whole,
        )
    if len(found) < clip.frames:
        raise ImageError(
            f"it is shorter than the clip of {clip.frames} frames at {clip.rate:g} a second "
            f"({clip.seconds:.2f} s): {len(found)} were found; ask for fewer, or leave it out"
        )
    return Video(found, clip.rate)


def is_video(name: str) -> bool:
    """Say whether a file is taken for a video, by its ending."""
    return name.lower().endswith(SUFFIXES)


def write_video(video: Video) -> bytes:
    """Encode a video as MP4 (H.264), the same bytes each time. Odd sides are made even by the last row or
    column again. ValueError for frames of several sizes.
    """
    av = _av()
    height, width = video.size
    if any((frame.height, frame.width) != (height, width) for frame in video.frames):
        raise ValueError("the frames of a video must be of one size")
    output = io.BytesIO()
    with av.open(output, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(video.rate).limit_denominator(1001))
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt, stream.options = "yuv420p", _QUALITY
        stream.codec_context.thread_count = 1  # each number of threads cuts slices its own way
        for image in video.frames:
            frame = av.VideoFrame.from_image(_even(image.convert("RGB")))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return output.getvalue()


def contact_sheet(video: Video, count: int = 8) -> Image.Image:
    """Return up to `count` frames beside each other, evenly chosen, the first and the last among them."""
    count = min(count, len(video.frames))
    last = len(video.frames) - 1
    chosen = [round(number * last / max(1, count - 1)) for number in range(count)]
    height, width = video.size
    sheet = Image.new("RGB", (count * width, height))
    for place, number in enumerate(chosen):
        sheet.paste(video.frames[number], (place * width, 0))
    return sheet


def _even(image: Image.Image) -> Image.Image:
    height, width = image.height + image.height % 2, image.width + image.width % 2
    if (height, width) == (image.height, image.width):
        return image
    found = Image.new("RGB", (width, height))
    for x in {0, width - image.width}:
        for y in {0, height - image.height}:
            found.paste(image, (x, y))
    found.paste(image, (0, 0))
    return found


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise ModuleNotFoundError(INSTALL) from None
    return av


class Source(NamedTuple):
    """An open video: its size (height, width), seconds and frames per second; what decodes it from a time on; what
    makes a decoded frame an image.
    """

    size: tuple[int, int]
    seconds: float | None
    rate: float
    decoded: Callable[[float], Iterator[tuple[float, Any]]]
    picture: Callable[[Any], Image.Image]


@contextmanager
def opened(file: BufferedIOBase) -> Iterator[Source]:
    """Open a video file. What PyAV raises in the body, too, becomes an ImageError."""
    with _opened(file) as (container, stream):
        shape = stream.sample_aspect_ratio or Fraction(1)
        yield Source(
            _shown_size(stream),
            _seconds(container, stream),
            float(stream.average_rate or 25),
            lambda start: _decoded(container, stream, start),
            lambda frame: _picture(frame, shape),
        )


@contextmanager
def _opened(file: BufferedIOBase) -> Iterator[tuple[av.container.InputContainer, Any]]:
    """Open a video file. What PyAV raises in the body, too, becomes an ImageError."""
    av = _av()
    try:
        with av.open(file, "r") as container:
            if not container.streams.video:
                raise ImageError("it has no video, only " + _kinds(container))
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ImageError("this PyAV has no decoder for its video; convert it to H.264")
            stream.codec_context.thread_count = 1  # files are decoded beside each other
            yield container, stream
    except (av.FFmpegError, ValueError, EOFError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"cannot be decoded: {error}") from None


def _kinds(container: Any) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _seconds(container: Any, stream: Any) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / 1e6


def _shown_size(stream: Any) -> tuple[int, int]:
    """Return height and width with pixels that are not square made square; turned frames are turned later."""
    context = stream.codec_context
    shape = stream.sample_aspect_ratio or Fraction(1)
    return context.height, max(1, round(context.width * shape))


def _decoded(container: Any, stream: Any, start: float) -> Iterator[tuple[float, Any]]:
    """Yield (seconds since the video's first frame, frame), from the last one at or before `start` on."""
    first = (stream.start_time or 0) * stream.time_base
    origin = start
    while True:
        if start > 0:
            place = int((Fraction(max(0.0, origin)) + first) / stream.time_base)
            container.seek(place, stream=stream, backward=True)
        behind = False
        for number, frame in enumerate(container.decode(stream)):
            if frame.pts is None:
                continue
            seconds = float(frame.pts * stream.time_base - first)
            if number == 0 and seconds > start and origin > 0:
                behind = True  # the index of key frames was wrong
                break
            yield seconds, frame
        if not behind:
            return
        origin -= _BACK


def _frames_at(
    times: Sequence[float],
    decoded: Iterator[tuple[float, Any]],
    picture: Callable[[Any], Image.Image],
    whole: float | None,
) -> list[Image.Image]:
    """Return the picture of the frame that is shown at each time, as far as the video goes. whole: its stated
    length in seconds, if any.
    """
    found: list[Image.Image] = []
    for count, frame in shown_at(times, decoded, whole):
        found.extend([picture(frame)] * count)
    return found


def shown_at(
    times: Sequence[float],
    decoded: Iterator[tuple[float, Any]],
    whole: float | None,
    late: float = 0.0,
) -> Iterator[tuple[int, Any]]:
    """Yield (at how many of the next times it is shown, frame), as far as the video goes. times: increasing.

    whole: its stated length in seconds, if any. late: seconds that the last frame is shown beyond its end.
    """
    done, shown, since, length = 0, None, 0.0, 0.0

    def before(end: float) -> int:
        return sum(time < end - _TICK for time in times[done:])

    for seconds, frame in decoded:
        if shown is not None:
            if count := before(seconds):
                yield count, shown
                done += count
            length = seconds - since
        if done == len(times):
            return
        shown, since = frame, seconds
    if shown is not None:
        # The last frame is shown as long as the one before it, a single one to the end.
        if count := before(since + (length or max(whole or 0.0, 2 * _TICK)) + late):
            yield count, shown


def _picture(frame: Any, shape: Fraction) -> Image.Image:
    """Convert a decoded frame to RGB, upright, its pixels made square. shape: of a pixel, width to height."""
    image: Image.Image = frame.to_image()
    if shape != 1:
        image = image.resize((max(1, round(image.width * shape)), image.height))
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image
