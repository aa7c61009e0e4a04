"""Five rewards of different kinds: ``tglo score --scorer tglo.shapes.rewards:faithfulness``.

| reward | kind | what it likes |
| --- | --- | --- |
| faithfulness | learned from true drawings | what the prompt asks for |
| vividness | image statistics | strong colours |
| symmetry | image statistics | left equal to right, which a vertical scene in the middle comes near |
| compressibility | a file's size | plain paper, no stripes |
| stars | a simulated person | faithful and vivid, in whole stars from 1 to 5, with errors |

`accuracy` is no reward but a second opinion on faithfulness, by the judge that no reward uses.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tglo.rewards import programmatic
from tglo.shapes import drawing, reader

Scores = NDArray[np.float64]
NAMES = ("faithfulness", "vividness", "symmetry", "compressibility", "stars")
RATER_ERROR = 0.7  # stars: standard deviation of a simulated person's error


def faithfulness(images: list[Image.Image], prompts: list[str]) -> Scores:
    """(B,) in [0, 1]: the mean probability of the prompt's answers to the reader's seven questions."""
    return reader.agreement(images, prompts).mean(axis=1)


def accuracy(images: list[Image.Image], prompts: list[str]) -> Scores:
    """(B,) 0 or 1: whether the judge gives the prompt's answer to all seven questions."""
    right = reader.agreement(images, prompts, "judge") > 0.5
    return np.asarray(right.all(axis=1), dtype=np.float64)


def vividness(images: list[Image.Image], prompts: list[str]) -> Scores:
    """(B,), 0 for grey images: see tglo.rewards.programmatic.colourfulness."""
    reader.check_pairs(images, prompts)
    return programmatic.colourfulness(images, prompts)


def symmetry(images: list[Image.Image], prompts: list[str]) -> Scores:
    """(B,) in [-1, 0]: minus the mean absolute difference of the image and its mirror image."""
    reader.check_pairs(images, prompts)
    pixels = drawing.to_array(images)
    mirrored = pixels[:, :, ::-1]
    return -np.abs(pixels - mirrored).mean(axis=(1, 2, 3), dtype=np.float64)


def compressibility(images: list[Image.Image], prompts: list[str]) -> Scores:
    """(B,), minus bytes per pixel: see tglo.rewards.programmatic.compressibility."""
    reader.check_pairs(images, prompts)
    return programmatic.compressibility(images, prompts)


def stars(images: list[Image.Image], prompts: list[str]) -> Scores:
    """(B,) whole numbers from 1 to 5: `rate` with the usual error."""
    return rate(images, prompts, RATER_ERROR)


def rate(images: list[Image.Image], prompts: list[str], error: float) -> Scores:
    """Stars of a simulated person who errs by ``error`` stars (standard deviation) before rounding.

    Without an error the opinion is 2 f + v / 20 within 1 and 5, f the faithfulness and v the
    vividness: over samples of the base model both count about the same. The error follows from image
    and prompt: the same image gets the same stars.
    """
    opinion = 2 * faithfulness(images, prompts) + vividness(images, prompts) / 20
    errors = [_normal(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
    return np.clip(np.rint(opinion + error * np.array(errors)), 1, 5)


def _normal(image: Image.Image, prompt: str) -> float:
    """A standard normal number that follows from image and prompt."""
    content = image.convert("RGB").tobytes() + prompt.encode()
    seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
    return float(np.random.default_rng(seed).standard_normal())
