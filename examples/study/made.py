"""Rewards made from others: a mixture, and one that is learned from few ratings by people who disagree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tglo.data.images import decode_image
from tglo.data.manifest import Manifest
from tglo.evaluate.diversity import features
from tglo.rewards import mix
from tglo.shapes import reader, rewards

MIXED = ("faithfulness", "vividness", "symmetry")
RATINGS = 300
TASTES = (1.0, 0.0, -1.0)
"""Stars that each of three raters gives for a standard deviation of symmetry: one likes it, one dislikes it."""
Floats = NDArray[np.float64]


def scores(name: str, rows: Manifest, seed: int) -> Floats:
    """Return the scores (N,) of a pool's rows, which have the plain rewards as columns."""
    return mixture(rows) if name == "mixture" else learned(rows, seed)


def mixture(rows: Manifest) -> Floats:
    """Return the sum of three rewards in their standard deviations."""
    parts = {part: column(rows, part) for part in MIXED}
    return mix(parts, dict.fromkeys(parts, 1.0), "std")


def learned(rows: Manifest, seed: int) -> Floats:
    """Return what ridge regression predicts from 300 ratings: of other images each, by the three raters in turn.

    Its features are what the reader finds of the prompt, and the image in 16x16 pixels: a frozen network and a
    linear head, as in reward models.
    """
    generator = np.random.default_rng((seed, 41))
    rated = generator.permutation(len(rows))[:RATINGS]
    x = inputs(rows)
    model: Any = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(0, 5, 16)))
    model.fit(x[rated], ratings(rows, generator)[rated])
    return np.asarray(model.predict(x), dtype=np.float64)


def ratings(rows: Manifest, generator: np.random.Generator) -> Floats:
    """Return whole stars (N,), row i by rater i mod 3."""
    opinion = 2 * column(rows, "faithfulness") + column(rows, "vividness") / 20
    symmetry = column(rows, "symmetry")
    liked = (symmetry - symmetry.mean()) / (symmetry.std() or 1.0)
    taste = np.resize(TASTES, len(rows))
    errors = rewards.RATER_ERROR * generator.standard_normal(len(rows))
    return np.clip(np.rint(opinion + taste * liked + errors), 1, 5)


def inputs(rows: Manifest) -> Floats:
    """Return (N, F) features of images and prompts."""
    images = [decode_image(rows.open_image(row)) for row in rows]
    read = reader.agreement(images, [row.prompt for row in rows])
    return np.concatenate([read, np.array([features(image) for image in images])], axis=1)


def column(rows: Manifest, name: str) -> Floats:
    """Return a plain reward's scores (N,)."""
    return np.array([float(row.extra[name]) for row in rows])
