"""Estimates with intervals, from scores (P, n): P prompts, n images of each under seeds that all
models share.

Prompts are what an evaluation samples, so intervals come from the bootstrap over prompts: P prompts
drawn with replacement, all images of a drawn prompt with it, and the 2.5% and 97.5% quantiles of the
statistic (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). They say how far
the result would move with other prompts. They hold neither the spread between trainings of one model,
for which train several, nor that of the sampling seeds beyond the n images. An interval of a win rate
that is 0 or 1 on every prompt has no width: then read it with P in mind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVEL = 0.95
_CHUNK = 1 << 22  # elements of a temporary array


@dataclass(frozen=True)
class Estimate:
    """A statistic and the ends of its interval."""

    value: float
    low: float
    high: float


def resample(prompts: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """Draw resamples; returns how often each has each prompt, (resamples, prompts).

    Raises ValueError for fewer than 2 prompts, which have no interval, or fewer than 100 resamples, whose
    2.5% quantile is a guess.
    """
    if prompts < 2 or resamples < 100:
        raise ValueError(
            f"{prompts} prompts and {resamples} resamples; an interval needs at least 2 and 100"
        )
    return np.random.default_rng(seed).multinomial(
        prompts, np.full(prompts, 1 / prompts), size=resamples
    )


def mean(values: Floats, counts: NDArray[np.int64]) -> Estimate:
    """Return the mean of one number per prompt, (P,), with the counts (R, P) of `resample`."""
    return _estimate(float(values.mean()), counts @ values / counts.sum(axis=1))


def median(scores: Floats, counts: NDArray[np.int64]) -> Estimate:
    """Return the median of all scores (P, n), with the counts (R, P) of `resample`."""
    order = np.argsort(scores, axis=None, kind="stable")
    ordered, prompt = scores.ravel()[order], order // scores.shape[1]
    middle = ((scores.size - 1) // 2, scores.size // 2)
    medians = np.empty(len(counts))
    step = max(1, _CHUNK // scores.size)
    for start in range(0, len(counts), step):
        # Of a resample, score i in order comes counts[prompt[i]] times.
        places = counts[start : start + step, prompt].cumsum(axis=1)
        low, high = (ordered[(places <= rank).sum(axis=1)] for rank in middle)
        medians[start : start + step] = (low + high) / 2
    return _estimate(float(np.median(scores)), medians)


def wins(scores: Floats, others: Floats) -> Floats:
    """Return the share of a prompt's images that score above the other model's of the same seed, (P,).

    A tie is half a win. Both (P, n); raises ValueError for different shapes.
    """
    if scores.shape != others.shape:
        raise ValueError(f"scores of {scores.shape} and {others.shape} are no pairs")
    return ((scores > others) + 0.5 * (scores == others)).mean(axis=1)


def _estimate(value: float, resampled: Floats) -> Estimate:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))
