"""Several views of one video, which is decoded once: each has frames of its own choice, changed in its own way.

Only what is chosen is kept in memory, and where the next frame is far away, what lies between is skipped: decoding
goes on at the key frame before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from tglo.data.decoding import VideoFile, check_pixels, opened
from tglo.data.errors import ImageError
from tglo.data.pictures import Source
from tglo.data.video import Video, shown_at

FAR = 10.0  # seconds between two frames, above which a seek costs less than decoding on
LATE = 1.0  # seconds that a video may end before its stated length, which may be that of its sound

Choose = Callable[[int, float], Sequence[float]]
"""(how many frames a video has, how many a second) -> the numbers of those that are taken, from 0 on; one between
two numbers is the frame that is shown then."""


def _unchanged(image: Image.Image) -> Image.Image:
    return image


@dataclass(frozen=True)
class View:
    """What is taken of a video: the frames that `choose` numbers, each as `change` returns it."""

    choose: Choose
    change: Callable[[Image.Image], Image.Image] = _unchanged


def evenly(number: int) -> Choose:
    """Return the choice of so many frames, evenly from the first to the last; of one, in the middle."""

    def choose(count: int, rate: float) -> list[float]:
        if count == 1:
            return [0.0]
        if number == 1:
            return [count / 2]
        return np.linspace(0, count - 1, number).tolist()

    return choose


def read_views(file: VideoFile, views: Sequence[View]) -> list[Video]:
    """Decode these views of a video file (seekable, in binary mode). A view's rate is its number of frames over the
    length of the video.

    Raises ImageError for a file that is broken, without video, or does not say how long it is, for frames above
    the cap on pixels or of several sizes; ValueError for a view without frames or with some that there are not.
    """
    with opened(file) as source:
        check_pixels(*source.size)
        seconds, rate = source.seconds, source.rate
    if seconds is None:
        raise ImageError("it does not say how long it is; write it anew, as MP4")
    count = max(1, round(seconds * rate))
    chosen = [_times(view, count, rate) for view in views]
    file.seek(0)
    found: list[dict[float, Image.Image]] = [{} for _ in views]
    with opened(file) as source:
        for times, picture in _pictures(source, sorted({t for one in chosen for t in one})):
            for view, wanted, frames in zip(views, chosen, found, strict=True):
                if shown := set(times).intersection(wanted):
                    frames |= dict.fromkeys(shown, view.change(picture))
    return [
        _video(times, frames, len(times) * rate / count)
        for times, frames in zip(chosen, found, strict=True)
    ]


def read_frames(file: VideoFile, count: int) -> Video:
    """Decode `count` frames of a video file, evenly from the first to the last. Errors are those of `read_views`."""
    return read_views(file, [View(evenly(count))])[0]


def _times(view: View, count: int, rate: float) -> list[float]:
    numbers = [float(number) for number in view.choose(count, rate)]
    if not numbers or not all(0 <= number < count for number in numbers):
        raise ValueError(
            f"of a video of {count} frames the frames {numbers[:5]} were chosen; they are numbered from 0 to "
            f"{count - 1}"
        )
    return [number / rate for number in numbers]


def _pictures(
    source: Source, times: Sequence[float]
) -> Iterator[tuple[Sequence[float], Image.Image]]:
    """Yield each picture with those of the increasing times at which it is shown, as far as the video goes."""
    starts = [n for n, time in enumerate(times) if n == 0 or time - times[n - 1] > FAR]
    for start, end in pairwise([*starts, len(times)]):
        run, done = times[start:end], 0
        for count, frame in shown_at(run, source.decoded(run[0]), source.seconds, LATE):
            yield run[done : done + count], source.picture(frame)
            done += count
        if done < len(run):
            return


def _video(times: Sequence[float], frames: dict[float, Image.Image], rate: float) -> Video:
    missing = [time for time in times if time not in frames]
    if missing:
        raise ImageError(
            f"it has no frame at {min(missing):.2f} s, which is within the length that it states: it is torn, or "
            "its end is missing; write it anew"
        )
    sizes = {frame.size for frame in frames.values()}
    if len(sizes) > 1:
        raise ImageError(f"its frames are of {len(sizes)} sizes; scale them to one")
    return Video([frames[time] for time in times], rate)
