"""A summary of the labels and weights that follow from a threshold, to read before training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from tglo.coded import as_coded
from tglo.threshold.fit import Fit
from tglo.threshold.statistics import as_scores, check_prompts, contrast_from, one_label_share
from tglo.threshold.weights import weighing

if TYPE_CHECKING:
    from tglo.threshold.frozen import Threshold

UNEVEN = 0.1
"""How much more one side may weigh than the other without a warning."""


@dataclass(frozen=True)
class Summary:
    """The labels and weights that follow from a threshold; str() gives a text to read."""

    count: int
    threshold: float
    percentile: float | None  # None of another baseline
    positives: int
    negatives: int
    ties: int  # exactly at the threshold
    weight_min: float
    weight_median: float
    weight_p90: float
    weight_max: float
    score_scale: str
    confidence: float
    # The share of rows whose prompt has one label only, among rows whose prompt has several rows.
    degenerate_share: float | None
    # A percentile that gives negatives, as all higher ones do; None where that is not known.
    contrast_from: int | None = None
    # The sums of the weights of positives and of negatives.
    positive_weight: float = math.nan
    negative_weight: float = math.nan
    baseline: str = "percentile"
    fit: Fit | None = None
    normalised: bool = False
    balanced: bool = False
    # Rows whose prompt was not among those of a threshold per prompt.
    unknown: int = 0

    def degenerate(self) -> str | None:
        """Say what to do about labels that are all equal; None if they are not."""
        if self.positives and self.negatives:
            return None
        lower, higher = "percentile", "higher percentile"
        if self.baseline != "percentile":
            lower = higher = "percentile as the baseline"
        elif self.contrast_from is not None:
            higher = f"percentile of {self.contrast_from} or more"
        if not self.positives:
            return (
                "every label is negative: no objective that learns from the threshold can train on "
                f"this. Choose a lower {lower}, or scores like these for the proxy."
            )
        return (
            "every label is positive: tgo, kto and bco refuse this, since nothing is contrasted; sft "
            f"trains on every sample. To contrast, choose a {higher}."
        )

    def notes(self) -> list[str]:
        """Say what is as it should be, and good to know."""
        return [] if self.fit is None else self.fit.notes()

    def warnings(self) -> list[str]:
        """Return sentences that a person should read before the training starts."""
        warnings = [] if self.fit is None else self.fit.warnings()
        if 0 < self.confidence < math.inf and self.weight_p90 < 1.5 and self._plain:
            advice = "a larger confidence" if self.score_scale != "none" else 'score_scale "std"'
            above = self.weight_p90 - 1
            most = f"are at most 1 + {above:.2g}" if above > 0 else "are 1"
            warnings.append(
                f"nine of ten weights {most}, so the confidence weight "
                "does next to nothing (usual for scores of small spread, HPSv2.1 for one). "
                f"Use {advice} if it should."
            )
        elif self.weight_max > 20 * self.weight_median or self._rescale:
            advice = "a smaller confidence" if self.score_scale != "none" else 'score_scale "mad"'
            if self.confidence == math.inf:
                advice = "a finite confidence" + (
                    "" if self.normalised else " or objective.weight_normalisation"
                )
            warnings.append(
                f"weights reach {self.weight_max:.3g} with a median of {self.weight_median:.3g}: "
                f"they rescale the learning rate or let a few samples decide. Use {advice}."
            )
        if self.degenerate_share is not None and self.degenerate_share > 0.5:
            advice = "Consider a per-prompt threshold (baseline oracle, or kappa)."
            if self.baseline in ("oracle", "ridge"):
                advice = "With more images of each prompt it follows the prompts' own means closer."
            warnings.append(
                f"{self.degenerate_share:.0%} of the rows belong to prompts whose images all share "
                f"one label: the threshold tells prompts apart more than images. {advice}"
            )
        if self.unknown:
            warnings.append(
                f"{self.unknown} of {self.count} rows have prompts that the threshold was not estimated "
                "from: they get the global value. A proxy set should have the prompts of the training set."
            )
        return warnings + self._uneven()

    @property
    def _plain(self) -> bool:
        return not (self.normalised or self.balanced)

    @property
    def _rescale(self) -> bool:
        return self.weight_median > 100 and not self.normalised

    def _uneven(self) -> list[str]:
        """Say of sides that differ what that does and how they are made to weigh the same."""
        smaller, larger = sorted((self.positive_weight, self.negative_weight))
        if self.degenerate() is not None or not larger > (1 + UNEVEN) * smaller:
            return []
        up = self.positive_weight > self.negative_weight
        which, does = ("positives", "towards") if up else ("negatives", "away from")
        more = f"{larger / smaller:.3g} times as much as" if smaller else "all there is beside"
        return [
            f"the {which} weigh {more} the others, which moves the model "
            f"{does} all of its samples, whatever their scores are, and far at larger learning rates. "
            "objective.balance gives both sides the same weight; so do baseline mean and oracle with an "
            "infinite confidence."
        ]

    def _origin(self) -> str:
        if self.baseline == "percentile":
            return f"percentile {self.percentile:g} of {self.count}"
        return f"baseline {self.baseline} of {self.count}"

    def __str__(self) -> str:
        share = self.positives / self.count
        kind = f"confidence {self.confidence:g}, score_scale {self.score_scale}"
        kind += ", mean 1" if self.normalised else ""
        kind += ", balanced" if self.balanced else ""
        lines = [
            f"threshold {self.threshold:.6g} ({self._origin()})",
            *([] if self.fit is None else self.fit.lines()),
            f"labels    {self.positives} positive ({share:.1%}), {self.negatives} negative, "
            f"{self.ties} exactly at it",
            f"weights   min {self.weight_min:.4g}  median {self.weight_median:.4g}  "
            f"p90 {self.weight_p90:.4g}  max {self.weight_max:.4g}  ({kind})",
            f"sides     positives weigh {self.positive_weight:.6g} in all, negatives "
            f"{self.negative_weight:.6g}",
        ]
        if self.degenerate_share is not None:
            share = self.degenerate_share
            lines.append(f"prompts   {share:.1%} of the rows are in prompts with a single label")
        degenerate = self.degenerate()
        lines += [] if degenerate is None else [f"stop      {degenerate}"]
        lines += [f"warning   {text}" for text in self.warnings()]
        return "\n".join(lines + [f"note      {text}" for text in self.notes()])


def describe(
    scores: ArrayLike,
    threshold: Threshold,
    confidence: float = 5.0,
    prompts: Sequence[str] | None = None,
    *,
    normalised: bool = False,
    balance: bool = False,
) -> Summary:
    """Summarise the labels and weights of the scores (N,): w = 1 + c |s - tau| / scale.

    confidence: c, also inf. normalised, balance: as `tglo.threshold.weights` says.
    prompts: one per score; needed when the threshold is per prompt. Errors are those of `estimate`.
    """
    values = as_scores(scores)
    if not confidence >= 0:
        raise ValueError(f"confidence must be a number, zero or more, or inf, got {confidence}")
    if prompts is None and threshold.per_prompt:
        raise ValueError("this threshold differs by prompt: pass prompts, one per score")
    tau, unknown = np.full(values.size, threshold.value), 0
    if prompts is not None:
        check_prompts(prompts, values.size)
        tau = threshold.for_prompts(prompts)
        if threshold.per_prompt:
            coded = as_coded(prompts)
            strange = np.array([name not in threshold.per_prompt for name in coded.names])
            unknown = int(strange[coded.codes].sum())
    own = not threshold.per_prompt and threshold.source == "scores"
    positive = values >= tau
    options = {"normalised": normalised, "balance": balance}
    weight = weighing(values, tau, confidence, scale=threshold.scale, **options).of(values, tau)
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
        positive_weight=float(weight[positive].sum()),
        negative_weight=float(weight[~positive].sum()),
        baseline=threshold.baseline,
        fit=threshold.fit,
        normalised=normalised,
        balanced=balance,
        unknown=unknown,
    )
