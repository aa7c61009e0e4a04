"""Videos: a clip of a file at a frame rate, and files written from frames.

A clip's frames lie at start + k / rate; each is the one that a player would show then. So files of any
rate, also a variable one, give clips of the rate that a model was trained on. Only frames of the clip are
kept in memory, and decoding starts at the last key frame before it, however long the file is.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from PIL import Image

from tglo.data.decoding import VideoFile, check_pixels, opened, pyav
from tglo.data.errors import ImageError
from tglo.data.kinds import is_video as is_video
from tglo.data.pictures import Source, even

# Hardly to be told from the frames. Without B-frames and lookahead, because what x264 chooses by them in small
# videos depends on what was in memory before, and the bytes would be others each time.
_QUALITY = {
    "crf": "12",
    "preset": "medium",
    "x264-params": "bframes=0:rc-lookahead=0:mbtree=0:scenecut=0:weightp=0",
}
_TICK = 1e-3  # seconds: what times of frames are rounded to in some files


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
        check_pixels(*source.size)
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
    return write_frames(video.frames, video.rate)


def write_frames(frames: Iterable[Image.Image], rate: float) -> bytes:
    """Do what `write_video` does with frames that are asked for one by one."""
    av, size, output = pyav(), None, io.BytesIO()
    with av.open(output, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
        stream.pix_fmt, stream.options = "yuv420p", _QUALITY
        stream.codec_context.thread_count = 1  # each number of threads cuts slices its own way
        for image in frames:
            if size is None:
                size = image.size
                stream.width, stream.height = (side + side % 2 for side in size)
            if image.size != size:
                raise ValueError("the frames of a video must be of one size")
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
