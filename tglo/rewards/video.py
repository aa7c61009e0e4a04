"""Scorers of videos: callables (videos, prompts) -> (B,) finite numbers with the attribute takes = "videos".

Which frames they are given is said by further attributes, `frame_rate` and `max_frames`, or by a method
`choose(count, rate)`, which returns the numbers of some of a video's `count` frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from mimetypes import guess_type
from numbers import Real
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tglo.data.decoding import VideoFile, opened
from tglo.data.errors import ImageError
from tglo.data.frames import FrameFolder, has_rate
from tglo.data.manifest import Manifest
from tglo.data.video import Video, is_video, write_frames, write_video
from tglo.data.video_views import Choose, View, evenly, read_views
from tglo.rewards.partial import identity
from tglo.settings import COUNT, FRAME_RATE, check_limits

MOST_FRAMES = 64
"""Frames that a scorer is given at most, unless it says another number."""
MOST_BYTES = 256 * 2**20
"""Of a file that is given as it is."""
MOST_ENCODED = 4096
"""Frames of a video that is not in one file and has to be, at most."""
_MP4 = "video/mp4"

_LIMITS = {"frame_rate": FRAME_RATE, "max_frames": COUNT}

VideoScorer = Callable[[list[Video], list[str]], ArrayLike]


@dataclass(frozen=True)
class VideoBytes:
    """A video as the bytes of its file. kind: its media type, such as video/mp4."""

    content: bytes
    kind: str


def takes_videos(scorer: Any) -> bool:
    """Say whether a scorer's first argument is videos, and not images."""
    return getattr(scorer, "takes", "images") == "videos"


def check_video_scorers(scorers: Mapping[str, Any], images: Sequence[str]) -> None:
    """Raise ValueError for a scorer of videos whose settings are out of their limits, or that is given images.

    images: those of the names in a manifest that are no videos.
    """
    for name, scorer in scorers.items():
        if not takes_videos(scorer):
            continue
        if images:
            raise ValueError(
                f"the scorer {name} takes videos, and {images[0]} is an image, one of {len(images)}; leave the "
                "scorer out, or the rows of images"
            )
        for key, limit in _LIMITS.items():
            named = f"{key} of the scorer {name}"
            values: dict[str, Any] = {named: getattr(scorer, key, None)}
            if not isinstance(values[named], (Real, NoneType)):
                raise ValueError(f"{named} is {values[named]!r}; it must be {limit}")
            check_limits(values, {named: limit})


def check_rates(scorers: Mapping[str, Any], manifest: Manifest, source_rate: float | None) -> None:
    """Raise ValueError for a source_rate out of its limits, and for none where a scorer of videos is given folders of
    frames whose rate the manifest does not say either.
    """
    check_limits({"source_rate": source_rate}, {"source_rate": FRAME_RATE})
    named = [name for name, scorer in scorers.items() if takes_videos(scorer)]
    if source_rate is not None or not named:
        return
    silent = [r for r in manifest if not has_rate(r.extra) and manifest.folder(r.image) is not None]
    if silent:
        raise ValueError(
            f"the scorer {named[0]} takes videos, and {len(silent)} folders of frames, such as {silent[0].image}, are "
            f"of an unknown rate; give frames per second in the manifest's column frame_rate, or as "
            "--source-rate for all that have none there"
        )


def choice_of(scorer: Any) -> Choose:
    """Return which frames a scorer of videos is given: its own choice, else `frame_rate` a second (all by
    default), `max_frames` at most, evenly from the first to the last.
    """
    if hasattr(scorer, "choose"):
        own: Choose = scorer.choose
        return own
    fps = getattr(scorer, "frame_rate", None)
    most = int(getattr(scorer, "max_frames", None) or MOST_FRAMES)

    def choose(count: int, rate: float) -> list[float]:
        wanted = count if fps is None else max(1, round(count / rate * fps))
        return np.linspace(0, count - 1, min(wanted, count, most)).round().tolist()

    return choose


class Inputs:
    """What each of some scorers is given of a video file, which is decoded once for all of them.

    frames: how many a scorer of images is given. source_rate: frames per second of folders that do not say theirs.
    """

    def __init__(
        self, scorers: Sequence[Any], frames: int, source_rate: float | None = None
    ) -> None:
        self._scorers, self.source_rate = scorers, source_rate
        some = View(evenly(frames))
        self._files = [takes_videos(s) and getattr(s, "takes_files", False) for s in scorers]
        self._views = [_view(scorer) if takes_videos(scorer) else some for scorer in scorers]

    def __call__(self, file: VideoFile, name: str) -> list[Video | VideoBytes]:
        """Read a file, named so, for each of the scorers. Errors are those of `read_views`."""
        views = [view for view, whole in zip(self._views, self._files, strict=True) if not whole]
        views = list(dict.fromkeys(views))
        try:
            found = dict(zip(views, read_views(file, views), strict=True))
        except ImageError:
            raise
        except ValueError as error:
            named = ", ".join(identity(scorer) for scorer in self._scorers if takes_videos(scorer))
            raise ValueError(f"{named}: {error}") from None
        whole_file = _as_file(file, name) if any(self._files) else None
        return [
            whole_file if whole and whole_file else found[view]
            for view, whole in zip(self._views, self._files, strict=True)
        ]


def _view(scorer: Any) -> View:
    change = getattr(scorer, "shrink", None)
    return View(choice_of(scorer)) if change is None else View(choice_of(scorer), change)


def _as_file(file: VideoFile, name: str) -> VideoBytes:
    """Return a video's file; what is not in one, whatever its name, is encoded."""
    file.seek(0)
    if isinstance(file, FrameFolder) or not is_video(name):
        return VideoBytes(_checked(_encoded(file)), _MP4)
    return VideoBytes(_checked(file.read(MOST_BYTES + 1)), guess_type(name)[0] or _MP4)


def _encoded(file: VideoFile) -> bytes:
    """Encode a video's frames, of which one at a time is in memory."""
    with opened(file) as source:
        count = round((source.seconds or 0.0) * source.rate)
        if count > MOST_ENCODED:
            raise ImageError(
                f"it has {count} frames, and at most {MOST_ENCODED} are encoded for a server; make it an MP4 file"
            )
        pictures = (source.picture(frame) for _, frame in source.decoded(0.0))
        return write_frames(pictures, source.rate)


def _checked(content: bytes) -> bytes:
    if len(content) > MOST_BYTES:
        raise ImageError(f"it has more than the {MOST_BYTES} bytes that are sent; make it smaller")
    return content


def as_file(video: Video) -> VideoBytes:
    """Encode a video as MP4."""
    return VideoBytes(write_video(video), _MP4)
