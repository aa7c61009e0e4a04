"""Rewards of moving digits, for `tglo score --scorer examples.moving_digits.rewards:NAME`.

`boldness` and `legibility` take frames, as any reward of images; `motion` takes whole videos.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from examples.moving_digits.clips import DIRECTIONS, PROMPTS, SCALE, SIZE
from tglo.data.video import Video
from tglo.demo import classifier, digits, scorer

_HALF = round(SIZE * SCALE / 2)  # pixels of a frame around the middle of the ink


def boldness(images: Sequence[Image.Image], prompts: Sequence[str]) -> NDArray[np.float64]:
    """Return the width of the stroke in pixels times the probability of the prompted digit, (B,): bold is good,
    illegible is not.
    """
    return scorer.stroke_width(list(images)) * legibility(images, prompts)


def legibility(images: Sequence[Image.Image], prompts: Sequence[str]) -> NDArray[np.float64]:
    """Return the probability (B,) that the demo's reader gives to the prompted digit, which it is shown as
    large as it knows it.
    """
    wanted = [_asked(prompt) // len(DIRECTIONS) for prompt in prompts]
    return classifier.read([_enlarged(image) for image in images])[np.arange(len(wanted)), wanted]


def motion(videos: Sequence[Video], prompts: Sequence[str]) -> NDArray[np.float64]:
    """Return how far the middle of the ink goes from the first frame to the last in the prompted direction, in
    pixels (B,).
    """
    found = []
    for video, prompt in zip(videos, prompts, strict=True):
        first, last = (_middle(ink) for ink in digits.to_ink([video.frames[0], video.frames[-1]]))
        way = tuple(DIRECTIONS.values())[_asked(prompt) % len(DIRECTIONS)]
        found.append(way * float(last[1] - first[1]))
    return np.array(found)


motion.takes = "videos"  # type: ignore[attr-defined]


def _asked(prompt: str) -> int:
    if prompt not in PROMPTS:
        raise ValueError(
            f"the prompt {prompt!r} is not of this world; it knows {PROMPTS[0]!r} to {PROMPTS[-1]!r}"
        )
    return PROMPTS.index(prompt)


def _middle(ink: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean place of the ink (SIZE, SIZE), down and right; of an empty page its middle."""
    ink = np.where(ink > 0.2, ink, 0.0)  # paper is seldom quite white
    if ink.sum() < 1.0:
        return np.full(2, (SIZE - 1) / 2)
    places = np.arange(SIZE)
    return np.array([np.average(places, weights=ink.sum(axis)) for axis in (1, 0)])


def _enlarged(image: Image.Image) -> Image.Image:
    """Cut out the digit and make it as large as `tglo demo` draws it."""
    down, right = np.round(_middle(digits.to_ink([image])[0])).astype(int)
    page = image.convert("L").resize((SIZE, SIZE))
    sheet = Image.new("L", (SIZE + 2 * _HALF,) * 2, 255)
    sheet.paste(page, (_HALF, _HALF))
    cut = sheet.crop((right, down, right + 2 * _HALF, down + 2 * _HALF))
    return cut.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
