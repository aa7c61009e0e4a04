"""The threshold tau that turns a score into a label: estimate it once, freeze it, look at it.

    tau = percentile(scores, p)
    l = 1 if s >= tau else 0                                  a tie is positive
    w = 1 + c |s - tau| / scale                               scale = 1 in arXiv 2605.04653
    tau(x) = (n_x percentile_x + kappa tau) / (n_x + kappa)   per prompt, shrunk to the global tau

All statistics are float64, so scores may be large or far from zero (times 1e8, plus 1e6).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tglo.files import read_sealed, reading, write_sealed
from tglo.threshold.statistics import (
    as_scores,
    contrast_from,
    one_label_share,
    percentile_of,
    rows_by_prompt,
    scale_of,
    sha256_of,
)
from tglo.threshold.summary import Summary

SCORE_SCALES = ("none", "std", "mad", "iqr")
SOURCES = ("scores", "proxy")
FORMAT = "tglo.threshold"
VERSION = 1
_FILE, _REMEDY = "threshold file", "write it again with `tglo threshold`"
_EDITED = ', or remove its line "seal" if you changed it on purpose'

log = logging.getLogger("tglo")


@dataclass(frozen=True)
class Threshold:
    """A frozen threshold. `estimate` makes it; it travels with the run as JSON.

    value: the global tau.
    per_prompt: tau(x) of every prompt that was seen, already shrunk; empty for a global threshold.
    scale: the divisor of |s - tau| (1.0 for score_scale "none").
    source: "scores", or "proxy" when the scores belong to images that the reference model made
        and not to the training rows.
    scores_sha256: the digest of the scores that it was estimated from.
    """

    value: float
    percentile: float
    count: int
    score_scale: str
    scale: float
    kappa: float | None
    per_prompt: Mapping[str, float] = field(default_factory=dict)
    source: str = "scores"
    scores_sha256: str = ""

    def for_prompts(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Return tau for each prompt, (B,) float64; the global value if the prompt is unknown."""
        return np.array([self.per_prompt.get(p, self.value) for p in prompts], dtype=np.float64)

    def confidence(self, confidence: float) -> float:
        """Return the c for the loss with which its w = 1 + c |s - tau| uses scaled scores."""
        return confidence / self.scale

    def check(self, scores: ArrayLike) -> None:
        """Raise ValueError unless the scores are those that it was frozen for, in any order.

        A threshold from a proxy set always passes: it has no training scores to compare with.
        """
        if self.source == "proxy":
            return
        found = as_scores(scores)
        if sha256_of(found) != self.scores_sha256:
            raise ValueError(
                f"the threshold {self.value:.6g} was frozen for {self.count} other scores than "
                f"these {found.size}; estimate it again for this manifest (`tglo threshold`), or "
                "use the manifest it belongs to"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON with its own checksum atomically; floats keep every bit."""
        write_sealed(Path(path), {"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Threshold:
        """Read a file that `save` wrote; ValueError when it is missing, something else or changed.

        One without a checksum, of an earlier version or made by hand, is read with a warning.
        """
        if not os.path.isfile(path):
            raise ValueError(
                f"there is no threshold file {path} (data.threshold): write it with `tglo threshold`, or "
                "leave data.threshold out, and the threshold is estimated from the manifest"
            )

        def without_checksum(found: dict[str, Any]) -> bool:
            if found.get("format") == FORMAT:
                log.warning(
                    "%s has no checksum: it is trusted as it is; `tglo threshold` writes one", path
                )
            return True  # what else it may be is told below

        content = read_sealed(Path(path), _FILE, _REMEDY + _EDITED, without_checksum)
        if content.get("format") != FORMAT:
            raise ValueError(f"{path} is not a threshold file; write one with `tglo threshold`")
        if content.get("version") != VERSION:
            raise ValueError(
                f"{path} has threshold format version {content.get('version')!r}, "
                f"this tglo reads {VERSION}: estimate it again"
            )
        given = {key: value for key, value in content.items() if key not in ("format", "version")}
        wrong = {f.name for f in fields(cls)} ^ given.keys()
        if wrong:
            raise ValueError(f"{path} lacks or adds {sorted(wrong)}; estimate it again")
        threshold = cls(**given)
        with reading(path, _FILE, _REMEDY):
            threshold._validate()
        return threshold

    def _validate(self) -> None:
        """Raise an error of any class unless all fields are what `estimate` makes."""
        numbers = {"value": self.value, "percentile": self.percentile, "scale": self.scale}
        numbers |= {f"per_prompt of {p!r}": tau for p, tau in self.per_prompt.items()}
        if self.kappa is not None:
            numbers["kappa"] = self.kappa
        for name, number in numbers.items():
            if type(number) not in (int, float) or not math.isfinite(number):
                raise ValueError(f"{name} is {number!r}, not a finite number")
        if self.scale <= 0:
            raise ValueError(f"scale is {self.scale}, a scale that is not positive")
        if not 0 <= self.percentile <= 100:
            raise ValueError(f"percentile is {self.percentile}, not in [0, 100]")
        if type(self.count) is not int or self.count < 1:
            raise ValueError(f"count is {self.count!r}")
        if self.score_scale not in SCORE_SCALES or self.source not in SOURCES:
            raise ValueError(f"unknown score_scale {self.score_scale!r} or source {self.source!r}")
        if not isinstance(self.scores_sha256, str):
            raise ValueError(f"scores_sha256 is {self.scores_sha256!r}")


def estimate(
    scores: ArrayLike,
    percentile: float = 50.0,
    *,
    prompts: Sequence[str] | None = None,
    kappa: float | None = None,
    score_scale: str = "none",
    source: str = "scores",
) -> Threshold:
    """Estimate the threshold from scores (N,).

    percentile: in [0, 100], with linear interpolation as in numpy; 50 in the paper.
    prompts with kappa: a threshold per prompt; kappa >= 0 is the weight of the global value,
        counted in samples.
    score_scale: "none" (the paper), "std", "mad" (median absolute deviation times 1.4826) or
        "iqr" (interquartile range over 1.349); the factors make each one estimate the standard
        deviation of a normal distribution.
    source: "proxy" when the scores come from images that the reference model generated.

    Raises TypeError for scores that are not real numbers; ValueError for NaN or inf (with their
    positions), an empty set, scores that are all equal, a zero scale, or settings out of range.
    """
    values = as_scores(scores)
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile must be in [0, 100], got {percentile}")
    if score_scale not in SCORE_SCALES:
        raise ValueError(f"score_scale must be one of {SCORE_SCALES}, got {score_scale!r}")
    if source not in SOURCES:
        raise ValueError(f"source must be one of {SOURCES}, got {source!r}")
    if values.min() == values.max():
        raise ValueError(
            f"all {values.size} scores equal {values[0]:.6g}: no threshold separates better from "
            "worse images, so training would only pull every sample up; score with another reward, "
            "or add images of other quality"
        )
    value = percentile_of(np.sort(values), percentile)
    return Threshold(
        value=value,
        percentile=float(percentile),
        count=int(values.size),
        score_scale=score_scale,
        scale=scale_of(values, score_scale),
        kappa=None if kappa is None else float(kappa),
        per_prompt=_per_prompt(values, percentile, value, prompts, kappa),
        source=source,
        scores_sha256=sha256_of(values),
    )


def describe(
    scores: ArrayLike,
    threshold: Threshold,
    confidence: float = 5.0,
    prompts: Sequence[str] | None = None,
) -> Summary:
    """Summarise the labels and weights (w = 1 + c |s - tau| / scale) of the scores (N,).

    prompts: one per score; needed when the threshold is per prompt. Errors are those of `estimate`.
    """
    values = as_scores(scores)
    if not (math.isfinite(confidence) and confidence >= 0):
        raise ValueError(f"confidence must be a finite number, zero or more, got {confidence}")
    if prompts is None and threshold.per_prompt:
        raise ValueError("this threshold differs by prompt: pass prompts, one per score")
    tau = np.full(values.size, threshold.value)
    if prompts is not None:
        _check_prompts(prompts, values.size)
        tau = threshold.for_prompts(prompts)
    own = not threshold.per_prompt and threshold.source == "scores"
    positive = values >= tau
    weight = 1 + confidence * (np.abs(values - tau) / threshold.scale)
    return Summary(
        count=int(values.size),
        threshold=threshold.value,
        percentile=threshold.percentile,
        positives=int(positive.sum()),
        negatives=int((~positive).sum()),
        ties=int((values == tau).sum()),
        weight_min=float(weight.min()),
        weight_median=float(np.median(weight)),
        weight_p90=float(np.percentile(weight, 90)),
        weight_max=float(weight.max()),
        score_scale=threshold.score_scale,
        confidence=float(confidence),
        degenerate_share=None if prompts is None else one_label_share(positive, prompts),
        contrast_from=contrast_from(values) if own else None,
    )


def _check_prompts(prompts: Sequence[str], count: int) -> None:
    if isinstance(prompts, str) or len(prompts) != count:
        raise ValueError(
            f"prompts must be a sequence, one prompt per score ({count}), got {len(prompts)}"
        )


def _per_prompt(
    values: NDArray[np.float64],
    percentile: float,
    tau: float,
    prompts: Sequence[str] | None,
    kappa: float | None,
) -> dict[str, float]:
    if prompts is None and kappa is None:
        return {}
    if prompts is None or kappa is None:
        raise ValueError(
            "a per-prompt threshold needs both prompts and kappa (8 counts the global value "
            "as eight more samples of every prompt); got prompts "
            f"{'missing' if prompts is None else 'given'}, kappa {kappa}"
        )
    if not (math.isfinite(kappa) and kappa >= 0):
        raise ValueError(f"kappa must be a finite number, zero or more, got {kappa}")
    _check_prompts(prompts, values.size)
    result = {}
    for prompt, rows in rows_by_prompt(prompts).items():
        own = percentile_of(np.sort(values[rows]), percentile)
        # The module's formula around `own`: exact for ties, whatever offset the scores have.
        result[prompt] = own + (tau - own) * (kappa / (len(rows) + kappa))
    return result
