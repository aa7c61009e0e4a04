"""Five rewards of different kinds: ``tglo score --scorer tglo.shapes.rewards:faithfulness``.

| reward | kind | it likes |
| --- | --- | --- |
| faithfulness | learned from true drawings | what the prompt asks for |
| vividness | image statistics | strong colours |
| symmetry | image statistics | left equal to right, as almost in a vertical scene in the middle |
| compressibility | a file's size | plain paper, no stripes |
| stars | a simulated person | faithful and vivid, in whole stars from 1 to 5, with errors |

`accuracy` is not a reward but a second opinion on faithfulness, by the judge that no reward uses.
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
    """Return the mean probability of the prompt's answers to the reader's questions, (B,) in [0, 1]."""
    return reader.agreement(images, prompts).mean(axis=1)


def accuracy(images: list[Image.Image], prompts: list[str]) -> Scores:
    """Return 1 if the judge gives the prompt's answer to all seven questions, else 0, (B,)."""
    right = reader.agreement(images, prompts, "judge") > 0.5
    return np.asarray(right.all(axis=1), dtype=np.float64)


def vividness(images: list[Image.Image], prompts: list[str]) -> Scores:
    """Return tglo.rewards.programmatic.colourfulness (B,), 0 for grey images."""
    reader.check_pairs(images, prompts)
    return programmatic.colourfulness(images, prompts)


def symmetry(images: list[Image.Image], prompts: list[str]) -> Scores:
    """Return minus the mean absolute difference of an image and its mirror image, (B,) in [-1, 0]."""
    reader.check_pairs(images, prompts)
    pixels = drawing.to_array(images)
    mirrored = pixels[:, :, ::-1]
    return -np.abs(pixels - mirrored).mean(axis=(1, 2, 3), dtype=np.float64)


def compressibility(images: list[Image.Image], prompts: list[str]) -> Scores:
    """Return tglo.rewards.programmatic.compressibility (B,), minus bytes per pixel."""
    reader.check_pairs(images, prompts)
    return programmatic.compressibility(images, prompts)


def stars(images: list[Image.Image], prompts: list[str]) -> Scores:
    """Return whole stars from 1 to 5, (B,): `rate` with the usual error."""
    return rate(images, prompts, RATER_ERROR)


def rate(images: list[Image.Image], prompts: list[str], error: float) -> Scores:
    """Return the stars of a simulated person who errs by ``error`` stars (s.d.) before rounding.

    Without an error the opinion is 2 f + v / 20 clipped to [1, 5], with faithfulness f and vividness v:
    over samples of the base model both count about the same. The error follows from image and prompt,
    so the same image gets the same stars.
    """
    opinion = 2 * faithfulness(images, prompts) + vividness(images, prompts) / 20
    return np.clip(np.rint(opinion + error * normal_errors(images, prompts)), 1, 5)


def normal_errors(images: list[Image.Image], prompts: list[str]) -> Scores:
    """Return standard normal numbers (B,), each following from its image and prompt."""
    return np.array([_normal(image, prompt) for image, prompt in zip(images, prompts, strict=True)])


def _normal(image: Image.Image, prompt: str) -> float:
    """Return a standard normal number that follows from image and prompt."""
    content = image.convert("RGB").tobytes() + prompt.encode()
    seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
    return float(np.random.default_rng(seed).standard_normal())
