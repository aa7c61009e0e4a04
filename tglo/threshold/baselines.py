"""What stands for the oracle's baseline tau*(x) = beta log E_ref[exp(s / beta) | x], beside a percentile:
an estimate of its first order, the prompt's mean score under the reference.

    mean      the mean of all scores, for every prompt
    oracle    the prompts' means, shrunk by empirical Bayes (prompt_means.py); where every prompt has one score,
              ridge, or the mean if the embeddings explain nothing
    ridge     regression of the prompts' means on their embeddings (ridge.py)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tglo.coded import numbered
from tglo.threshold.fit import OUTLYING, Fit
from tglo.threshold.prompt_means import prompt_means, shrunk_means
from tglo.threshold.ridge import UnexplainedError, ridge
from tglo.threshold.statistics import outlying

BASELINES = ("percentile", "mean", "oracle", "ridge")
Embed = Callable[[Sequence[str]], ArrayLike]
"""From P different prompts to their embeddings, (P, D): one vector each, such as the mean over its tokens."""


def check_baseline(baseline: str, percentile: float, per_prompt: bool, prefix: str = "") -> None:
    """Raise ValueError for a percentile or a shrinkage by kappa that a baseline does not use.

    prefix: what stands before the names of settings, "data." in a run.
    """
    if baseline != "percentile" and percentile != 50:
        raise ValueError(
            f"{prefix}percentile is {percentile:g}, which {prefix}baseline {baseline} does not use; leave "
            f"one out"
        )
    if baseline != "percentile" and per_prompt:
        raise ValueError(
            f"kappa shrinks the percentile of each prompt, and {prefix}baseline is {baseline}, which "
            "finds its thresholds by itself; leave one out"
        )


class Estimated(NamedTuple):
    """A global value, the thresholds of the prompts that have their own, and what they follow from."""

    value: float
    per_prompt: dict[str, float]
    fit: Fit


def estimate_baseline(
    values: NDArray[np.float64],
    baseline: str,
    prompts: Sequence[str] | None,
    embed: Embed | None,
) -> Estimated:
    """Estimate a baseline other than "percentile" from scores (N,) and their prompts.

    ValueError where it cannot be: it says why, and what to use.
    """
    if baseline == "mean":
        return _global_mean(values, prompts)
    if prompts is None:
        raise ValueError(f"baseline {baseline} differs by prompt: pass prompts, one per score")
    names, numbers = numbered(prompts)
    if baseline == "oracle" and len(names) < len(numbers):
        value, thresholds, fit = shrunk_means(values, numbers)
        return Estimated(value, dict(zip(names, thresholds.tolist(), strict=True)), fit)
    if embed is None:
        several = (
            "" if baseline == "ridge" else f"each of the {len(names)} prompts has one score, so "
        )
        raise ValueError(
            f"{several}baseline {baseline} needs the prompts' embeddings to tell them apart: give a cache "
            "that has them (`tglo threshold --cache`; embed= in Python), or use baseline mean"
        )
    try:
        return _by_embedding(values, names, numbers, embed)
    except UnexplainedError as error:
        if baseline == "ridge":
            raise
        found = _global_mean(values, prompts)
        return found._replace(fit=replace(found.fit, unexplained=str(error)))


def _global_mean(values: NDArray[np.float64], prompts: Sequence[str] | None) -> Estimated:
    fit = Fit("mean", prompts=0 if prompts is None else len(numbered(prompts)[0]))
    return Estimated(float(values.mean()), {}, _with_outliers(fit, values))


def _with_outliers(fit: Fit, values: NDArray[np.float64]) -> Fit:
    outside = outlying(values, OUTLYING)
    if not outside.any():
        return fit
    return replace(fit, outliers=int(outside.sum()), value_without=float(values[~outside].mean()))


def _by_embedding(
    values: NDArray[np.float64], names: list[str], numbers: NDArray[np.int64], embed: Embed
) -> Estimated:
    found = prompt_means(values, numbers)
    fitted = ridge(found.means, embed(names))
    if not fitted.explained > 2 * fitted.error:
        raise UnexplainedError(
            f"the embeddings of {len(names)} prompts do not explain their scores: R^2 is "
            f"{fitted.explained:.3g}, leave-one-out, and it must be above twice its standard error, "
            f"{fitted.error:.2g}. Use baseline mean, or score several images of each prompt for "
            "baseline oracle"
        )
    fit = Fit(
        "ridge",
        prompts=len(names),
        several=int((found.counts > 1).sum()),
        explained=fitted.explained,
        strength=fitted.strength,
    )
    thresholds = dict(zip(names, fitted.predictions.tolist(), strict=True))
    return Estimated(float(found.means.mean()), thresholds, _with_outliers(fit, values))
