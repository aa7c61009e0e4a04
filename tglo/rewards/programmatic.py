"""Scores that need no model: plain image statistics; the prompt is ignored."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Scores = NDArray[np.float64]


def ink(images: list[Image.Image], prompts: list[str]) -> Scores:
    """Return the mean darkness in [0, 1], (B,): 1 is black, 0 is white."""
    return np.array([1 - _grey(image).mean() / 255 for image in images], dtype=np.float64)


def colourfulness(images: list[Image.Image], prompts: list[str]) -> Scores:
    """Return the colourfulness (B,), 0 for grey images (Hasler and Suesstrunk, 2003, 8-bit RGB):

    sqrt(var_rg + var_yb) + 0.3 sqrt(mean_rg^2 + mean_yb^2), rg = R - G, yb = (R + G) / 2 - B.
    """
    scores = []
    for image in images:
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), dtype=np.float64), -1, 0)
        rg, yb = red - green, (red + green) / 2 - blue
        spread, offset = np.hypot(rg.std(), yb.std()), np.hypot(rg.mean(), yb.mean())
        scores.append(spread + 0.3 * offset)
    return np.array(scores, dtype=np.float64)


def sharpness(images: list[Image.Image], prompts: list[str]) -> Scores:
    """Return the variance of the grey image's Laplacian (B,), in squared grey levels; 0 when flat."""
    scores = []
    for image in images:
        grey = np.pad(_grey(image), 1, mode="edge")
        centre = grey[1:-1, 1:-1]
        laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * centre
        scores.append(laplacian.var())
    return np.array(scores, dtype=np.float64)


def compressibility(images: list[Image.Image], prompts: list[str]) -> Scores:
    """Return minus the bytes per pixel as JPEG of quality 95, (B,): plain images score high."""
    scores = []
    for image in images:
        out = io.BytesIO()
        image.convert("RGB").save(out, "JPEG", quality=95)
        scores.append(-out.tell() / (image.width * image.height))
    return np.array(scores, dtype=np.float64)


def _grey(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image.convert("L"), dtype=np.float64)
