"""Handwritten digits that move over a page: clips of nine frames of 32x32 pixels, in black on white.

The digits are a few of those of `tglo demo`, drawn three quarters as large. A prompt names the digit and where it
goes; how fast it is and how bold its stroke is are not said.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tglo.demo import digits

SIZE, FRAMES, RATE = 32, 9, 16.0  # pixels of a side; frames of a clip, and a second: Wan's
DIRECTIONS = {"left": -1, "right": 1}
PROMPTS = tuple(f"a {name} moving {to}" for name in digits.NAMES for to in DIRECTIONS)
HANDS = 3  # that each digit is written in: few enough to be learnt in minutes
PENS = (1.0, 4.5)  # thinnest and boldest stroke in pixels
TRAVEL = (3.0, 9.0)  # pixels from the first frame to the last
SCALE = 0.75  # of the demo's drawings

_FINE = 2  # places of a digit in a pixel, along a side
_SOFTNESS = 0.3  # pixels: the pen's edge
_JITTER = 1.0  # pixels that the middle of a path may be off the page's


@dataclass(frozen=True)
class Scene:
    """What a clip shows. prompt: its index; hand: of the digit's scans; pen, travel and offset: pixels."""

    prompt: int
    hand: int
    pen: float
    travel: float
    offset: tuple[float, float]


def random_scenes(generator: np.random.Generator, count: int) -> list[Scene]:
    """Draw scenes: thin pens more often than bold ones, all digits, directions and speeds alike."""
    prompts = generator.integers(len(PROMPTS), size=count)
    hands = generator.integers(HANDS, size=count)
    pens = PENS[0] + (PENS[1] - PENS[0]) * generator.beta(1.5, 2.5, size=count)
    travels = generator.uniform(*TRAVEL, size=count)
    offsets = generator.uniform(-_JITTER, _JITTER, size=(count, 2))
    return [
        Scene(int(prompt), int(hand), pen, travel, (down, right))
        for prompt, hand, pen, travel, (down, right) in zip(
            prompts, hands, pens, travels, offsets, strict=True
        )
    ]


def draw(scene: Scene) -> NDArray[np.float32]:
    """Return a clip's ink (FRAMES, SIZE, SIZE): 0 paper, 1 ink."""
    distance = _distances()[scene.prompt // len(DIRECTIONS), scene.hand]
    edge = np.clip((distance - scene.pen / 2) / _SOFTNESS, -30, 30)
    stroke = 1 / (1 + np.exp(edge))
    side, page = len(stroke), SIZE * _FINE
    way = tuple(DIRECTIONS.values())[scene.prompt % len(DIRECTIONS)]
    clip = np.zeros((FRAMES, page + side, page + side), np.float32)  # half a digit around the page
    for frame, part in zip(clip, np.linspace(-0.5, 0.5, FRAMES), strict=True):
        top, left = (
            page // 2 + round(_FINE * moved)
            for moved in (scene.offset[0], scene.offset[1] + part * scene.travel * way)
        )
        frame[top : top + side, left : left + side] = stroke
    inner = clip[:, side // 2 : side // 2 + page, side // 2 : side // 2 + page]
    return inner.reshape(FRAMES, SIZE, _FINE, SIZE, _FINE).mean(axis=(2, 4))


@lru_cache(maxsize=1)
def _distances() -> NDArray[np.float32]:
    """Return (10, HANDS, side, side): pixels of a clip to the digit's centre line, `_FINE` to a pixel."""
    data = digits.load(
        18, 28
    )  # of the regular choices the one whose worst digit is the most legible
    rows = np.stack([np.flatnonzero(data.labels == digit)[:HANDS] for digit in range(10)])
    # The demo's have three to a pixel: every second of them is two to a pixel of a drawing of this scale.
    return data.distance[rows][..., ::2, ::2].astype(np.float32) * SCALE
