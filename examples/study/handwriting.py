"""Rewards of the world of digits, and its judge. Each is a scorer: images and prompts -> (B,) numbers.

| reward | kind | it likes |
| --- | --- | --- |
| bold | learned from real digits, and an image statistic | legible digits in bold strokes (`tglo.demo.scorer`) |
| slant | an image statistic | digits that lean to the right, legible or not |
| stars | a simulated person | legible digits of a thin pen, in whole stars from 1 to 5, with errors |
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tglo.demo import classifier, digits, scorer
from tglo.shapes.reader import check_pairs
from tglo.shapes.rewards import RATER_ERROR, normal_errors

Scores = NDArray[np.float64]


def prompt_set(name: str, count: int) -> list[str]:
    """Return ``count`` prompts, the ten in turn: they are the same in training, tuning and evaluation."""
    return [digits.PROMPTS[i % len(digits.PROMPTS)] for i in range(count)]


def bold(images: list[Image.Image], prompts: list[str]) -> Scores:
    """Return legibility times stroke width (B,) in pixels."""
    return scorer.score(images, prompts)


def slant(images: list[Image.Image], prompts: list[str]) -> Scores:
    """Return how far the ink leans to the right, (B,) in [-1, 1]: the second moments of its places,
    -2 cov(x, y) / (var x + var y), with y downwards. A blank page has 0.
    """
    check_pairs(images, prompts)
    ink = digits.to_ink(images).astype(np.float64)
    whole = ink.sum(axis=(1, 2))
    down, right = np.mgrid[: digits.SIZE, : digits.SIZE]

    def mean(of: NDArray[np.float64]) -> Scores:
        return np.asarray((ink * of).sum(axis=(1, 2)) / np.maximum(whole, 1e-9))

    x = right - mean(right)[:, None, None]
    y = down - mean(down)[:, None, None]
    spread = mean(x**2) + mean(y**2)
    return np.where(whole > 1.0, -2 * mean(x * y) / np.maximum(spread, 1e-9), 0.0)


def stars(images: list[Image.Image], prompts: list[str]) -> Scores:
    """Return whole stars from 1 to 5, (B,): `rate` with the usual error."""
    return rate(images, prompts, RATER_ERROR)


def rate(images: list[Image.Image], prompts: list[str], error: float) -> Scores:
    """Return the stars of a simulated person who errs by ``error`` stars (s.d.) before rounding.

    Without an error the opinion is 2 l + 4.5 - w clipped to [1, 5], with legibility l and stroke width w in pixels: a
    sample of the base of the usual width gets 3.
    """
    opinion = 2 * scorer.legibility(images, prompts) + 4.5 - scorer.stroke_width(images)
    return np.clip(np.rint(opinion + error * normal_errors(images, prompts)), 1, 5)


def accuracy(images: list[Image.Image], prompts: list[str]) -> Scores:
    """Return 1 if the judge, whom no reward uses, sees the digit that the prompt asks for, else 0, (B,)."""
    return np.asarray(classifier.judge(images) == digits.requested_digits(prompts), np.float64)
