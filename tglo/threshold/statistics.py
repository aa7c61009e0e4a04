"""Percentile, scale, quantiles and hash of scores in float64, whatever their offset and size."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tglo.coded import as_coded


def as_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """Return scores as float64 (N,); TypeError or ValueError unless they are finite real numbers."""
    values: Any = np.asarray(scores)
    if values.size == 0:
        raise ValueError("no scores were given: at least two different ones are needed")
    if values.dtype.kind not in "fiub":
        raise TypeError(
            f"scores must be real numbers, got {values.dtype} (first: {values.reshape(-1)[0]!r})"
        )
    if values.ndim != 1:
        raise ValueError(f"scores must have shape (N,), got {values.shape}")
    result: NDArray[np.float64] = values.astype(np.float64, copy=False)
    bad = np.flatnonzero(~np.isfinite(result))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {values.size} scores are NaN or inf, at positions {bad[:10].tolist()}; "
            "remove those rows or score them again"
        )
    return result


def check_prompts(prompts: Sequence[str], count: int) -> None:
    """Raise ValueError unless there is a prompt for each of `count` scores."""
    if isinstance(prompts, str) or len(prompts) != count:
        raise ValueError(
            f"prompts must be a sequence, one prompt per score ({count}), got {len(prompts)}"
        )


def sha256_of(values: NDArray[np.float64]) -> str:
    """Return a hex digest of the scores that does not depend on their order."""
    # Sorted, since reordering rows changes no threshold; + 0.0 turns -0.0 into 0.0.
    ordered = np.sort(values)
    ordered += 0.0
    return hashlib.sha256(ordered.astype("<f8", copy=False).data).hexdigest()


def percentile_of(ordered: NDArray[np.float64], percentile: float) -> float:
    """Interpolate as numpy does, but make a rank whole that should be whole.

    np.percentile's rank 0.55 * 100 is 55.00000000000001. It puts tau an ulp above the sample at rank 55,
    which is then no longer a tie; or not, depending on how the scores' offset rounds. Labels must not
    depend on that.
    """
    rank = percentile * (ordered.size - 1) / 100
    if abs(rank - round(rank)) < 1e-9 * max(1.0, rank):
        return float(ordered[round(rank)])
    low = math.floor(rank)
    a, b = float(ordered[low]), float(ordered[low + 1])
    return min(max(a * (1 - (rank - low)) + b * (rank - low), a), b)


def scale_of(values: NDArray[np.float64], score_scale: str) -> float:
    """Return the divisor that score_scale names; ValueError when it is zero or overflows."""
    if score_scale == "none":
        return 1.0
    # An overflow shows in the scale and is refused below.
    with np.errstate(over="ignore", invalid="ignore"):
        centred = values - np.median(values)
        largest = float(np.abs(centred).max())
        centred /= largest  # so that squares neither overflow nor vanish
    if score_scale == "std":
        scale = float(centred.std())
    elif score_scale == "mad":
        scale = 1.4826 * float(np.median(np.abs(centred)))
    else:
        scale = float(np.subtract(*np.percentile(centred, [75, 25]))) / 1.349
    scale *= largest
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(
            f"score_scale {score_scale!r} is {scale} for these scores (half of them or more are "
            'equal, or they overflow), and weights cannot be divided by it; use "std" or "none"'
        )
    return scale


def contrast_from(values: NDArray[np.float64]) -> int:
    """Return the first whole percentile above the least score, unless all scores are equal."""
    least = int((values == values.min()).sum())
    return math.floor(100 * (least - 1) / max(1, values.size - 1)) + 1


def one_label_share(positive: NDArray[np.bool_], prompts: Sequence[str]) -> float:
    """Return the share of rows whose prompt has one label only, among rows of prompts with several."""
    numbers = as_coded(prompts).codes
    counts, positives = np.bincount(numbers), np.bincount(numbers, positive).astype(np.int64)
    several = counts > 1
    one_label = several & ((positives == 0) | (positives == counts))
    return int(counts[one_label].sum()) / int(counts[several].sum()) if several.any() else 0.0


def outlying(values: NDArray[np.float64], limit: float) -> NDArray[np.bool_]:
    """Return which values are more than `limit` robust standard deviations (1.4826 times the median absolute
    deviation) from the median; none where half of the values are equal.
    """
    distance = np.abs(values - np.median(values))
    unit = 1.4826 * np.median(distance)
    result: NDArray[np.bool_] = (distance > limit * unit) & (unit > 0)
    return result


def quantiles_within(scores: NDArray[np.float64], prompts: Sequence[str]) -> NDArray[np.float64]:
    """Return for each row the share of its prompt's scores that are at most its own, (N,) in (0, 1].

    A prompt with one row has nothing to compare with: its score is ranked among all rows.
    """
    numbers = as_coded(prompts).codes
    counts, result = np.bincount(numbers), np.empty(len(scores))
    alone = np.flatnonzero((counts == 1)[numbers])
    if alone.size:
        result[alone] = np.searchsorted(np.sort(scores), scores[alone], side="right") / len(scores)
    # With arrays of many rows, none is kept longer than it is needed.
    order = by_group(scores, numbers)
    inside, prompt = scores[order], numbers[order]
    # The last row of a run of equal scores of one prompt has the rank of all of them.
    last = np.append((prompt[1:] != prompt[:-1]) | (inside[1:] != inside[:-1]), True)
    del inside
    ends = np.flatnonzero(last) + 1
    ranks = np.repeat(ends, np.diff(ends, prepend=0))
    del ends
    ranks -= (np.cumsum(counts) - counts)[prompt]
    shares = ranks / counts[prompt]
    several = (counts > 1)[prompt]
    result[order[several]] = shares[several]
    return result


def by_group(values: NDArray[np.float64], numbers: NDArray[Any]) -> NDArray[np.intp]:
    """Return the order of rows by their group's number, ascending values in each."""
    order = np.argsort(values)
    return order[np.argsort(numbers[order], kind="stable")]
