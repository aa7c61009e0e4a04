"""Curves for the eye: a bounded number of bins, each with its mean and its extremes, so that spikes stay.

A bin holds `width` lines, a power of two that doubles when there are too many bins. New lines thus
change the last bin and add others: what was sent before stays as it is, unless the width doubled or
the file was rewritten.
"""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tglo.watch.metrics_file import MetricsFile

MOST_BINS = 480  # about the pixels of a chart
CURVES = (
    *("loss", "r_positive", "r_negative", "implicit_accuracy", "saturated"),
    *("policy_error", "reference_error", "gradient_norm", "learning_rate"),
    *("samples_per_second", "temperature"),
)

COMPARING = {"r_positive", "r_negative", "implicit_accuracy", "saturated", "reference_error"}


class Have(NamedTuple):
    """What a page has of a run: the file's generation, its lines a bin, and its bins that are complete."""

    generation: int = -1
    width: int = 0
    bins: int = 0


def width_of(lines: int) -> int:
    """Return how many lines make a bin."""
    width = 1
    while lines > MOST_BINS * width:
        width *= 2
    return width


def update(metrics: MetricsFile, have: Have) -> dict[str, Any]:
    """Return the bins that a page lacks: from `first` on, of `width` lines each.

    steps: last step of each bin. curves: for each of CURVES the means, and with more than one line a bin
    the least and the greatest as well, one after another. Both are float32 in base64; nan where no value of
    a bin is finite. A curve without a value at all is left out.
    """
    lines, width = len(metrics), width_of(len(metrics))
    kept = have.generation == metrics.generation and have.width == width
    first = min(have.bins, lines // width) if kept else 0
    steps = metrics.column("step")[first * width :]
    starts = np.arange(0, len(steps), width)
    ends = np.append(starts[1:], len(steps)) - 1 if len(steps) else starts
    return {
        "generation": metrics.generation,
        "width": width,
        "first": first,
        "complete": lines // width,
        "lines": lines,
        "steps": _packed(steps[ends]),
        "curves": {
            name: _packed(_summary(metrics.column(name)[first * width :], starts, width))
            for name in shown(metrics)
        },
    }


def shown(metrics: MetricsFile) -> list[str]:
    """Return the curves that say something: those with a value, and of supervised fine-tuning, which writes
    zeros for it, none that compares with a reference.
    """
    left_out = set() if has_reference(metrics) else COMPARING
    return [n for n in CURVES if n not in left_out and np.isfinite(metrics.column(n)).any()]


def has_reference(metrics: MetricsFile) -> bool:
    """Return whether the run's objective compares with a reference."""
    return bool((metrics.column("reference_error") > 0).any())


def _summary(
    values: NDArray[np.float64], starts: NDArray[np.intp], width: int
) -> NDArray[np.float64]:
    """Return means, least and greatest of the bins that begin at `starts`; the values themselves at width 1."""
    finite = np.isfinite(values)
    if width == 1 or not len(values):
        return np.where(finite, values, np.nan)
    count = np.add.reduceat(finite, starts, dtype=np.int64)
    total = np.add.reduceat(np.where(finite, values, 0.0), starts)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    hidden = np.where(finite, values, np.nan)  # fmin and fmax pass over nan
    return np.concatenate(
        [mean, np.fmin.reduceat(hidden, starts), np.fmax.reduceat(hidden, starts)]
    )


def _packed(values: NDArray[np.float64]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()
