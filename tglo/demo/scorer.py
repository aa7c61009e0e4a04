"""The demo's reward: ``tglo score --scorer tglo.demo.scorer:score``.

score = legibility x boldness, in pixels. Boldness, the taste, is the mean stroke width; legibility
is the probability of the prompted digit. A bold blot and a thin but perfect digit both score low.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from tglo.demo import classifier, digits
from tglo.shapes.reader import check_pairs


def score(images: list[Image.Image], prompts: list[str]) -> np.ndarray:
    """Return legibility times stroke width, (B,) float64 in pixels; raises ValueError for a prompt the demo does
    not know.
    """
    return legibility(images, prompts) * stroke_width(images)


def legibility(images: list[Image.Image], prompts: list[str]) -> np.ndarray:
    """Return the probability (B,) float64 that the image shows the digit which its prompt asks for."""
    check_pairs(images, prompts)
    requested = digits.requested_digits(prompts)
    if not images:
        return np.zeros(0)
    return classifier.read(images)[np.arange(len(images)), requested]


def stroke_width(images: list[Image.Image]) -> np.ndarray:
    """Return the mean stroke width (B,) float64 in pixels of the 32x32 drawing: twice the area of ink over
    its outline.

    A stroke of length L and width d has the area L d and an outline of about 2 L, whatever digit it
    belongs to, so that no digit is favoured. The outline is the total variation of the ink. A blank
    image has width 0.
    """
    ink = np.pad(digits.to_ink(images).astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    down = np.diff(ink, axis=1)[:, :, :-1]
    right = np.diff(ink, axis=2)[:, :-1, :]
    outline = np.hypot(down, right).sum(axis=(1, 2))
    area = ink.sum(axis=(1, 2))
    # An outline below one pixel is the grey of an empty page, not a stroke.
    return np.where(outline > 1.0, 2.0 * area / np.maximum(outline, 1.0), 0.0)
