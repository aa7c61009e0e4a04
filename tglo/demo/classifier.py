"""The readers of digits: a small network inside the score (fitted by examples/pretraining/reader.py), and
an independent judge that the score never sees.

Both are fitted on real digits, on different halves: the reader on rows 0, 2, 4, ... of
``load_digits``, the judge on rows 1, 3, 5, ... . They differ in kind as well (a convolutional
network, a support vector machine), so that a model which learned to please the reader does not
please the judge by that alone.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from tglo.demo import digits
from tglo.shapes.weights import shipped

if TYPE_CHECKING:
    from sklearn.svm import SVC

READER = Path(__file__).parent / "reader.safetensors"
ILLEGIBLE = 10  # the reader's eleventh class


class Reader(nn.Sequential):
    """A classifier of drawings (B, 1, 32, 32), 0 paper and 1 ink, with logits (B, 11): the ten digits and
    "illegible".
    """

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 16), (16, 32), (32, 48)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]
        super().__init__(*layers, nn.Flatten(), nn.Linear(48 * 4 * 4, 11))


@lru_cache(maxsize=1)
def load_reader() -> Reader:
    """Load the fitted reader that ships with the package."""
    reader = Reader()
    reader.load_state_dict(load_file(shipped(READER)))
    return reader.eval()


@torch.no_grad()
def read(images: list[Image.Image]) -> np.ndarray:
    """Return the probabilities (B, 11) float64 that the reader gives to the ten digits and to "illegible"."""
    ink = torch.from_numpy(digits.to_ink(images)).unsqueeze(1)
    return load_reader()(ink).double().softmax(dim=1).numpy()


@lru_cache(maxsize=1)
def fit_judge() -> SVC:
    """Fit a support vector machine on the other half of the real digits, each drawn with four
    pens (seconds).
    """
    from sklearn.svm import SVC

    data, generator = digits.load(1, 2), np.random.default_rng(1)
    rows = np.tile(np.arange(len(data)), 4)
    ink = shifted(data.draw(rows, generator.uniform(1.0, 6.0, size=len(rows))), generator, reach=1)
    return SVC(C=10.0, gamma="scale").fit(_judge_features(ink), data.labels[rows])


def judge(images: list[Image.Image]) -> np.ndarray:
    """Return the digit (B,) int64 that the independent judge sees in each image."""
    return fit_judge().predict(_judge_features(digits.to_ink(images))).astype(np.int64)


def correct(images: list[Image.Image], prompts: list[str]) -> np.ndarray:
    """Return whether the judge sees in each image the digit that its prompt asks for, (B,) bool."""
    return np.asarray(judge(images) == digits.requested_digits(prompts))


def accuracy(images: list[Image.Image], prompts: list[str]) -> float:
    """Return the share of images in which the judge sees the digit that the prompt asks for."""
    return float(correct(images, prompts).mean())


def _judge_features(ink: np.ndarray) -> np.ndarray:
    """Return the mean ink of 2x2 blocks: (B, 256)."""
    half = digits.SIZE // 2
    return ink.reshape(len(ink), half, 2, half, 2).mean(axis=(2, 4)).reshape(len(ink), -1)


def shifted(ink: np.ndarray, generator: np.random.Generator, *, reach: int) -> np.ndarray:
    """Move every drawing by up to ``reach`` pixels."""
    moves = generator.integers(-reach, reach + 1, size=(len(ink), 2))
    return np.stack(
        [np.roll(plane, tuple(move), axis=(0, 1)) for plane, move in zip(ink, moves, strict=True)]
    )
