"""Scorers of images for videos: each of some frames is scored, and the frames' scores become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from tglo.data.video import Video
from tglo.rewards.partial import identity
from tglo.rewards.video import takes_videos

Aggregate = Literal["mean", "worst"]
FRAMES = 8


def for_videos(
    scorers: Mapping[str, Any], frames: int = FRAMES, aggregate: Aggregate = "mean"
) -> dict[str, Any]:
    """Return the scorers by name, each as one that takes videos."""
    return {
        name: scorer
        if takes_videos(scorer) or isinstance(scorer, OfFrames)
        else OfFrames(scorer, frames, aggregate)
        for name, scorer in scorers.items()
    }


class OfFrames:
    """A scorer that takes images and videos: an image has its own score, a video the mean or the worst of its
    frames'.

    scorer: of images. chunk: at most so many images are given to it at once.
    """

    def __init__(self, scorer: Any, frames: int, aggregate: Aggregate = "mean", chunk: int = 32):
        self._scorer, self._aggregate, self._chunk = scorer, aggregate, chunk
        self.identity = f"{identity(scorer)}, {aggregate} of {frames} frames"
        if hasattr(scorer, "device"):  # takes part in the search for a batch size
            self.device = scorer.device

    def __call__(
        self, samples: Sequence[Image.Image | Video], prompts: Sequence[str]
    ) -> NDArray[np.float64]:
        """Return one number per image or video, (B,)."""
        frames = [s.frames if isinstance(s, Video) else [s] for s in samples]
        images = [image for of_one in frames for image in of_one]
        words = [prompt for prompt, of_one in zip(prompts, frames, strict=True) for _ in of_one]
        parts: list[ArrayLike] = []
        for start in range(0, len(images), self._chunk):
            part = slice(start, start + self._chunk)
            found = np.asarray(self._scorer(images[part], words[part]), dtype=np.float64)
            if found.shape != (len(images[part]),):
                raise ValueError(
                    f"the scorer {identity(self._scorer)} returned shape {found.shape} for "
                    f"{len(images[part])} frames; it must be ({len(images[part])},)"
                )
            parts.append(found)
        scores = np.split(np.concatenate(parts), np.cumsum([len(f) for f in frames])[:-1])
        return np.array([s.min() if self._aggregate == "worst" else s.mean() for s in scores])
