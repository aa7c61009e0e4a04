"""Ridge regression of prompts' scores on their embeddings, for prompts with one image each.

With X the embeddings (P, D) around their mean, X'X = V diag(e) V' and Z = X V, the prediction of prompt i
from the P - 1 others, the intercept included, is in closed form for every strength lambda:

    f_i   = mean(y) + sum_k z_ik (Z'y)_k / (e_k + lambda)
    h_i   = 1 / P + sum_k z_ik^2 / (e_k + lambda)
    tau_i = y_i - (y_i - f_i) / (1 - h_i)

lambda is the one of a grid with the least sum of (y_i - tau_i)^2. The same predictions are the thresholds: no
score takes part in its own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

GRID = np.logspace(-4, 4, 33)
"""Strengths, in units of the mean eigenvalue of X'X / min(P, D)."""
BLOCK = 8192
"""Prompts at a time."""
LEAST = 8
"""Prompts that a regression needs."""


class UnexplainedError(ValueError):
    """The embeddings tell nothing about the scores; the message says why, and what to use."""


class Ridge(NamedTuple):
    """Leave-one-out predictions of P prompts, and how good they are."""

    predictions: Floats
    strength: float
    """lambda in units of the mean eigenvalue."""
    explained: float
    """R^2: 1 - the squared error over that of the mean of the others."""
    error: float
    """The standard error of `explained`, over prompts."""


def ridge(scores: Floats, embeddings: ArrayLike) -> Ridge:
    """Predict each of P scores from the P - 1 others by their embeddings (P, D).

    Raises ValueError for embeddings of another shape or not finite; UnexplainedError for embeddings that are
    all equal, and for fewer than LEAST prompts.
    """
    features: NDArray[Any] = np.asarray(embeddings)
    count = scores.size
    if features.ndim != 2 or len(features) != count or not features.shape[1]:
        raise ValueError(
            f"the embeddings of {count} prompts must have shape ({count}, D), got {features.shape}"
        )
    if count < LEAST:
        raise UnexplainedError(
            f"ridge regression needs {LEAST} prompts or more, got {count}; use baseline mean"
        )
    centre = features.mean(axis=0, dtype=np.float64)
    if not np.isfinite(centre).all():  # a NaN or inf anywhere is in it
        raise ValueError(
            f"the embeddings of the {count} prompts are not all finite; make them again"
        )
    values, vectors = _eigen(features, centre)
    unit = float(values.sum()) / min(features.shape)
    if not unit > 0:
        raise UnexplainedError(
            f"the embeddings of the {count} prompts are all equal; use baseline mean"
        )
    middle, spread = float(scores.mean()), float(np.abs(scores - scores.mean()).max()) or 1.0
    y = (scores - middle) / spread
    inverse = 1 / (values[:, None] + unit * GRID)
    product = sum((y[rows] @ (features[rows] - centre) for rows in _blocks(count)), 0 * centre)
    slopes = (product @ vectors)[:, None] * inverse  # (k, strengths)
    predictions = np.empty((count, GRID.size))
    for rows in _blocks(count):
        z = (features[rows] - centre) @ vectors
        leverage = 1 / count + z**2 @ inverse
        rest = y[rows, None] - z @ slopes
        # 1 - h is positive for lambda > 0; the floor is for rounding.
        predictions[rows] = y[rows, None] - rest / np.maximum(1 - leverage, 1e-9)
    squares = (predictions - y[:, None]) ** 2
    best = int(squares.sum(axis=0).argmin())
    base = (y * count / (count - 1)) ** 2  # by the mean of the others
    gain = base - squares[:, best]
    scale = float(base.sum()) or 1.0
    return Ridge(
        middle + spread * predictions[:, best],
        float(GRID[best]),
        float(gain.sum()) / scale,
        float(gain.std(ddof=1)) * math.sqrt(count) / scale,
    )


def _blocks(count: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, count, BLOCK)]


def _eigen(features: NDArray[Any], centre: Floats) -> tuple[Floats, Floats]:
    """Return the eigenvalues (k,) of X'X and its eigenvectors (D, k), k = min(P, D), by the smaller product."""
    count, width = features.shape
    if width <= count:
        product = np.zeros((width, width))
        for rows in _blocks(count):
            block = features[rows] - centre
            product += block.T @ block
        return _sorted(product)
    centred = features - centre
    values, left = _sorted(centred @ centred.T)
    length = np.sqrt(np.maximum(values, np.finfo(float).tiny))
    kept = values > 1e-12 * values.max(initial=0.0)  # the rest is rounding
    return values[kept], centred.T @ (left[:, kept] / length[kept])


def _sorted(product: Floats) -> tuple[Floats, Floats]:
    values, vectors = np.linalg.eigh(product)
    return np.maximum(values, 0.0), vectors
