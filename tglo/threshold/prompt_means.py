"""The mean score of each prompt, shrunk by empirical Bayes: the oracle's baseline to first order.

    tau*(x) = beta log E_ref[exp(s / beta) | x] = E[s | x] + Var(s | x) / (2 beta) + ...

Taken are scores s = m + u_x + e with Var u = sigma_b^2 between prompts and Var e = sigma_w^2 within:

    sigma_w^2 = sum over rows of (s - mean_x)^2 / (N - P)
    sigma_b^2 = max(0, variance of the P means - sigma_w^2 * mean of 1 / n_x)
    tau(x)    = m + B_x (mean_x - m),    B_x = sigma_b^2 / (sigma_b^2 + sigma_w^2 / n_x)
    m         = mean of the mean_x, each weighted by 1 / (sigma_b^2 + sigma_w^2 / n_x)

With n_x alike m is the mean of all scores. With others, too, the sum of s - tau over all rows is 0 with this m:
both sides of the threshold pull equally where w = |s - tau|.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tglo.threshold.fit import OUTLYING, Fit
from tglo.threshold.statistics import outlying

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


class PromptMeans(NamedTuple):
    """The means of P prompts, in the order of their numbers."""

    counts: Numbers
    """n_x, (P,)."""
    means: Floats
    """(P,)."""
    within: float
    """The sum of squares within prompts, in `unit`^2; exactly 0 where no prompt has two different scores."""
    unit: float
    """The largest distance from the mean of all: so squares neither overflow nor vanish."""


class Shrunk(NamedTuple):
    """A threshold per prompt, and what it follows from."""

    value: float
    thresholds: Floats
    fit: Fit


def prompt_means(values: Floats, numbers: Numbers) -> PromptMeans:
    """Return the means of scores (N,) by the number of each row's prompt; every number below P occurs."""
    counts = np.bincount(numbers)
    centre = float(values.mean())
    unit = float(np.abs(values - centre).max()) or 1.0
    centred = (values - centre) / unit
    means = np.bincount(numbers, centred) / counts
    squares = 0.0
    if _any_differ(values, numbers, counts):
        centred -= means[numbers]
        squares = float(centred @ centred)
    return PromptMeans(counts, centre + unit * means, squares, unit)


def _any_differ(values: Floats, numbers: Numbers, counts: Numbers) -> bool:
    """Say whether any prompt has two different scores."""
    ordered = values[np.argsort(numbers, kind="stable")]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return bool((np.maximum.reduceat(ordered, starts) > np.minimum.reduceat(ordered, starts)).any())


def shrunk_means(values: Floats, numbers: Numbers) -> Shrunk:
    """Return the shrunk mean of each prompt.

    ValueError where the scores of each prompt are all equal: then every score would be its threshold.
    The caller has seen that some prompt has several scores.
    """
    found = prompt_means(values, numbers)
    if not found.within:
        raise ValueError(
            f"the scores of each of the {found.counts.size} prompts are all equal (B = 1), so every "
            "score would be its own threshold and nothing be learned; use baseline mean or percentile, "
            "which compare prompts, or score other images of each prompt"
        )
    shrunk = _shrink(found)
    outside = outlying(values, OUTLYING)
    if not outside.any():
        return shrunk
    _, kept = np.unique(numbers[~outside], return_inverse=True)
    other = prompt_means(values[~outside], kept)
    fit = replace(shrunk.fit, outliers=int(outside.sum()))
    if other.within and kept.size > other.counts.size:
        without = _shrink(other)
        fit = replace(fit, value_without=without.value, factor_without=without.fit.factor)
    return shrunk._replace(fit=fit)


def _shrink(found: PromptMeans) -> Shrunk:
    counts, unit = found.counts, found.unit
    centre = float(found.means.mean())
    means = (found.means - centre) / unit
    within = found.within / (int(counts.sum()) - counts.size)
    between = 0.0
    if counts.size > 1:
        between = max(0.0, float(means.var(ddof=1)) - within * float((1 / counts).mean()))
    noise = within / counts
    factor = between / (between + noise)
    weight = 1 / (between + noise)
    middle = float(means @ weight / weight.sum())
    value = centre + unit * middle
    fit = Fit(
        "prompt means",
        prompts=counts.size,
        several=int((counts > 1).sum()),
        explained=between / (between + within),
        within=unit * math.sqrt(within),
        between=unit * math.sqrt(between),
        factor=float(factor.mean()),
        factor_least=float(factor.min()),
        factor_most=float(factor.max()),
    )
    return Shrunk(value, centre + unit * (middle + factor * (means - middle)), fit)
