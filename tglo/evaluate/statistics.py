"""Estimates with intervals, from scores (P, n): P prompts, n images of each under seeds that all
models share.

Prompts are what an evaluation samples, so they are the unit of every interval. Of means, medians and
differences it comes from the bootstrap over prompts: P prompts drawn with replacement, all images of a
drawn prompt with it, and the 2.5% and 97.5% quantiles of the statistic (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, chapter 13). Of shares, such as win rates, it is Wilson's: a
bootstrap of prompts that were all won would have no width. Intervals say how far the result would move
with other prompts. They hold neither the spread between trainings of one model, for which train
several, nor that of the sampling seeds beyond the n images.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVEL = 0.95
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
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


def difference(scores: Floats, others: Floats, counts: NDArray[np.int64]) -> Estimate:
    """Return the mean of scores minus that of others of the same prompts and seeds, both (P,) or (P, n), with
    the counts (R, P) of `resample`.

    Prompts that are hard for both models cancel, which two intervals beside each other do not show.
    """
    _check_pairs(scores, others)
    return mean((scores - others).reshape(len(scores), -1).mean(axis=1), counts)


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


def share(values: Floats) -> Estimate:
    """Return the mean of shares in [0, 1], one of each prompt, (P,), with Wilson's interval.

    Of P trials that are won or lost it is the score interval of Wilson (1927, J. Am. Stat. Assoc. 22,
    209). A prompt may also be won in part, by some of its images or by ties, and then says more than one
    trial; so the interval is that of as many trials as have the mean's variance (Korn and Graubard, 1998,
    Survey Methodology 24, 193):

        N = P m (1 - m) / v

    with mean m and variance v of the values and of z^2 / 2 prompts won and as many lost (Agresti and
    Coull, 1998, Am. Stat. 52, 119), which keep N at P where all prompts are alike won or lost.
    ValueError for values that are no shares.
    """
    if values.size == 0 or not (0 <= values.min() and values.max() <= 1):
        raise ValueError(f"{values} are not shares of at least one prompt, from 0 to 1")
    number, value, square = len(values), float(values.mean()), _Z**2
    middle = (values.sum() + square / 2) / (number + square)
    variance = (np.square(values).sum() + square / 2) / (number + square) - middle**2
    trials = number * middle * (1 - middle) / variance
    centre = (value + square / (2 * trials)) / (1 + square / trials)
    half = (value * (1 - value) / trials + square / (4 * trials**2)) ** 0.5
    half *= _Z / (1 + square / trials)
    low, high = max(0.0, float(centre - half)), min(1.0, float(centre + half))
    return Estimate(value, min(value, low), max(value, high))


def wins(scores: Floats, others: Floats) -> Floats:
    """Return the share of a prompt's images that score above the other model's of the same seed, (P,).

    A tie is half a win. Both (P, n); raises ValueError for different shapes.
    """
    _check_pairs(scores, others)
    return ((scores > others) + 0.5 * (scores == others)).mean(axis=1)


def _check_pairs(scores: Floats, others: Floats) -> None:
    if scores.shape != others.shape:
        raise ValueError(f"scores of {scores.shape} and {others.shape} are no pairs")


def _estimate(value: float, resampled: Floats) -> Estimate:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))
