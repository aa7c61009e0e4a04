"""The threshold tau that turns a score into a label: estimate it once, freeze it, look at it.

    tau = percentile(scores, p)
    l = 1 if s >= tau else 0                                  a tie is positive
    w = 1 + c |s - tau| / scale                               scale = 1 in arXiv 2605.04653
    tau(x) = (n_x percentile_x + kappa tau) / (n_x + kappa)   per prompt, shrunk to the global tau

or, in place of the percentile, a mean that stands for the oracle's baseline (baselines.py).
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

from tglo.coded import as_coded, numbered
from tglo.files import read_sealed, reading, write_sealed
from tglo.threshold.baselines import BASELINES, Embed, check_baseline, estimate_baseline
from tglo.threshold.fit import Fit
from tglo.threshold.statistics import (
    as_scores,
    by_group,
    check_prompts,
    percentile_of,
    scale_of,
    sha256_of,
)

SCORE_SCALES = ("none", "std", "mad", "iqr")
SOURCES = ("scores", "proxy")
FORMAT = "tglo.threshold"
VERSION = 2
"""1 has percentiles alone, without `baseline` and `fit`; such thresholds are still written so."""
_FILE, _REMEDY = "threshold file", "write it again with `tglo threshold`"
_EDITED = ', or remove its line "seal" if you changed it on purpose'

log = logging.getLogger("tglo")


@dataclass(frozen=True)
class Threshold:
    """A frozen threshold. `estimate` makes it; it travels with the run as JSON.

    value: the global tau.
    percentile: None where the baseline is another.
    per_prompt: tau(x) of every prompt that was seen, already shrunk; empty for a global threshold.
    scale: the divisor of |s - tau| (1.0 for score_scale "none").
    source: "scores", or "proxy" when the scores belong to images that the reference model made
        and not to the training rows.
    scores_sha256: the digest of the scores that it was estimated from.
    baseline: one of BASELINES; fit: what another one than "percentile" found.
    """

    value: float
    percentile: float | None
    count: int
    score_scale: str
    scale: float
    kappa: float | None
    per_prompt: Mapping[str, float] = field(default_factory=dict)
    source: str = "scores"
    scores_sha256: str = ""
    baseline: str = "percentile"
    fit: Fit | None = None

    def for_prompts(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Return tau for each prompt, (B,) float64; the global value if the prompt is unknown."""
        if not self.per_prompt:
            return np.full(len(prompts), self.value, dtype=np.float64)
        coded = as_coded(prompts)
        found = [self.per_prompt.get(name, self.value) for name in coded.names]
        return np.array(found, dtype=np.float64)[coded.codes]

    def confidence(self, confidence: float) -> float:
        """Return the c for the loss with which its w = 1 + c |s - tau| uses scaled scores; inf of inf."""
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
        version = 1 if self.baseline == "percentile" else VERSION
        write_sealed(Path(path), {"format": FORMAT, "version": version, **self.plain()})

    def plain(self) -> dict[str, Any]:
        """Return JSON. A percentile's has what it always had, so that its digests stay the same."""
        plain = {part.name: getattr(self, part.name) for part in fields(self)}
        plain["per_prompt"] = dict(self.per_prompt)  # asdict copies its numbers one by one
        plain["fit"] = None if self.fit is None else asdict(self.fit)
        if self.baseline == "percentile":
            del plain["baseline"], plain["fit"]
        return plain

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
        version = content.get("version")
        if version not in range(1, VERSION + 1):
            raise ValueError(
                f"{path} has threshold format version {version!r}, this tglo reads 1 to {VERSION}: "
                "estimate it again"
            )
        given = {key: value for key, value in content.items() if key not in ("format", "version")}
        known = {f.name for f in fields(cls)} - ({"baseline", "fit"} if version == 1 else set())
        wrong = known ^ given.keys()
        if wrong:
            raise ValueError(f"{path} lacks or adds {sorted(wrong)}; estimate it again")
        with reading(path, _FILE, _REMEDY):
            if given.get("fit") is not None:
                given["fit"] = Fit(**given["fit"])
            threshold = cls(**given)
            threshold._validate()
        return threshold

    def _validate(self) -> None:
        """Raise an error of any class unless all fields are what `estimate` makes."""
        if self.baseline not in BASELINES:
            raise ValueError(f"unknown baseline {self.baseline!r}")
        by_percentile = self.baseline == "percentile"
        if by_percentile != (self.fit is None) or by_percentile != (self.percentile is not None):
            raise ValueError("a percentile, or a fit, that its baseline has not")
        if self.fit is not None:
            self.fit.validate()
        numbers = {"value": self.value, "scale": self.scale}
        if self.percentile is not None:
            numbers["percentile"] = self.percentile
        numbers |= {f"per_prompt of {p!r}": tau for p, tau in self.per_prompt.items()}
        if self.kappa is not None:
            numbers["kappa"] = self.kappa
        for name, number in numbers.items():
            if type(number) not in (int, float) or not math.isfinite(number):
                raise ValueError(f"{name} is {number!r}, not a finite number")
        if self.scale <= 0:
            raise ValueError(f"scale is {self.scale}, a scale that is not positive")
        if self.percentile is not None and not 0 <= self.percentile <= 100:
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
    baseline: str = "percentile",
    embed: Embed | None = None,
) -> Threshold:
    """Estimate the threshold from scores (N,).

    percentile: in [0, 100], with linear interpolation as in numpy; 50 in the paper.
    prompts with kappa: a threshold per prompt; kappa >= 0 is the weight of the global value,
        counted in samples.
    score_scale: "none" (the paper), "std", "mad" (median absolute deviation times 1.4826) or
        "iqr" (interquartile range over 1.349); the factors make each one estimate the standard
        deviation of a normal distribution.
    source: "proxy" when the scores come from images that the reference model generated.
    baseline: "percentile" (the paper), or without percentile and kappa "mean", "oracle" or "ridge", of
        which the last two need prompts: see `tglo.threshold.baselines`.
    embed: a function from P different prompts to their embeddings (P, D); "ridge" needs it, and
        "oracle" where every prompt has one score.

    Raises TypeError for scores that are not real numbers; ValueError for NaN or inf (with their
    positions), an empty set, scores that are all equal, a zero scale, settings out of range, or a baseline
    that these scores do not give.
    """
    values = as_scores(scores)
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile must be in [0, 100], got {percentile}")
    if score_scale not in SCORE_SCALES:
        raise ValueError(f"score_scale must be one of {SCORE_SCALES}, got {score_scale!r}")
    if source not in SOURCES:
        raise ValueError(f"source must be one of {SOURCES}, got {source!r}")
    if baseline not in BASELINES:
        raise ValueError(f"baseline must be one of {BASELINES}, got {baseline!r}")
    if values.min() == values.max():
        raise ValueError(
            f"all {values.size} scores equal {values[0]:.6g}: no threshold separates better from "
            "worse images, so training would only pull every sample up; score with another reward, "
            "or add images of other quality"
        )
    known: dict[str, Any] = {
        "count": int(values.size),
        "score_scale": score_scale,
        "scale": scale_of(values, score_scale),
        "source": source,
        "scores_sha256": sha256_of(values),
        "baseline": baseline,
    }
    if baseline != "percentile":
        check_baseline(baseline, percentile, kappa is not None)
        if prompts is not None:
            check_prompts(prompts, values.size)
        value, per_prompt, fit = estimate_baseline(values, baseline, prompts, embed)
        return Threshold(
            value=value, percentile=None, kappa=None, per_prompt=per_prompt, fit=fit, **known
        )
    value = percentile_of(np.sort(values), percentile)
    return Threshold(
        value=value,
        percentile=float(percentile),
        kappa=None if kappa is None else float(kappa),
        per_prompt=_per_prompt(values, percentile, value, prompts, kappa),
        **known,
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
    check_prompts(prompts, values.size)
    names, numbers = numbered(prompts)
    ordered, start, result = values[by_group(values, numbers)], 0, {}
    for prompt, count in zip(names, np.bincount(numbers).tolist(), strict=True):
        own = percentile_of(ordered[start : start + count], percentile)
        # The module's formula around `own`: exact for ties, whatever offset the scores have.
        result[prompt] = own + (tau - own) * (kappa / (count + kappa))
        start += count
    return result
