"""Videos: a clip of a file at a frame rate, and files written from frames.

A clip's frames lie at start + k / rate; each is the one that a player would show then. So files of any
rate, also a variable one, give clips of the rate that a model was trained on. Only frames of the clip are
kept in memory, and decoding starts at the last key frame before it, however long the file is.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BufferedIOBase
from typing import Any, Literal

from PIL import Image

from tglo.data.errors import ImageError
from tglo.data.frames import FrameFolder
from tglo.data.images import MAX_PIXELS, as_rgb, image_format
from tglo.data.kinds import is_video as is_video
from tglo.data.pictures import Source, even, of_folder, of_image

VideoFile = BufferedIOBase | FrameFolder
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
    is_whole: bool = False
    """It has every frame of its file once, in their order, and nothing else."""

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
    """What a file says of its video: size in square pixels before it is turned, and seconds, None if unknown."""

    height: int
    width: int
    seconds: float | None


def about(file: VideoFile) -> About:
    """Read a video's size and length; ImageError if there is no video in it. file: see `read_clip`."""
    with opened(file) as source:
        return About(*source.size, source.seconds)


def read_clip(
    file: VideoFile,
    clip: Clip,
    change: Callable[[Image.Image], Image.Image] = lambda image: image,
) -> Video:
    """Decode a clip. file: a video's, seekable and in binary mode, or the folder of its frames, whose rate is the
    clip's unless it has one; an image is a video of one frame. change: what is done to each frame, so that large
    ones need not be kept.

    Raises ImageError for a file that is broken, without video, or shorter than the clip, and for frames
    above the cap on pixels.
    """
    with opened(file, clip.rate) as source:
        if source.is_image and clip.frames > 1:
            raise ImageError(
                f"it is an image or an animation, of which one frame is read, and the clip has {clip.frames}: "
                "convert an animation to MP4, leave images out, or let clips have 1 frame too (--frames)"
            )
        height, width = source.size
        if height * width > MAX_PIXELS:
            raise ImageError(_above(width, height))
        whole = source.seconds
        start = 0.0
        if clip.place == "middle" and whole is not None:
            start = max(0.0, (whole - clip.seconds) / 2)
        times = [start + number / clip.rate for number in range(clip.frames)]
        found, is_whole = _taken(source, times, change)
    if len(found) < clip.frames:
        raise ImageError(
            f"it is shorter than the clip of {clip.frames} frames at {clip.rate:g} a second "
            f"({clip.seconds:.2f} s): {len(found)} were found; ask for fewer, or leave it out"
        )
    return Video(found, clip.rate, is_whole)


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
            frame = av.VideoFrame.from_image(even(image.convert("RGB")))
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


def need_pyav() -> None:
    """Raise ModuleNotFoundError, which says what to install, where video files cannot be read or written."""
    _av()


def _av() -> Any:
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
    av = _av()
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


def _above(width: int, height: int) -> str:
    return f"{width} x {height} pixels are above the cap of {MAX_PIXELS} (max_pixels)"


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


def _taken(
    source: Source, times: Sequence[float], change: Callable[[Image.Image], Image.Image]
) -> tuple[list[Image.Image], bool]:
    """Return the frames at these times, and whether these are all frames of the video, each once."""
    passed, used, ended = 0, 0, False

    def picture(frame: Any) -> Image.Image:
        nonlocal used
        used += 1
        return change(source.picture(frame))

    def counted(start: float) -> Iterator[tuple[float, Any]]:
        nonlocal passed, ended
        for seconds, frame in source.decoded(start):
            passed += (
                1 if passed or seconds < _TICK else 1 + len(times)
            )  # it begins later: not whole
            yield seconds, frame
        ended = True

    found = _frames_at(times, counted(times[0]), picture, source.seconds)
    return found, ended and passed == used == len(found)


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
    if frame.width * frame.height * max(1, shape) > MAX_PIXELS:  # they may change on the way
        raise ImageError(_above(frame.width, frame.height))
    image: Image.Image = frame.to_image()
    if any(part.is_alpha for part in frame.format.components):
        image = as_rgb(Image.fromarray(frame.to_ndarray(format="rgba")))
    if shape != 1:
        image = image.resize((max(1, round(image.width * shape)), image.height))
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image
