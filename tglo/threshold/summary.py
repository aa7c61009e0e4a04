"""A summary of the labels and weights that follow from a threshold, to read before training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """The labels and weights that follow from a threshold; str() gives a text to read."""

    count: int
    threshold: float
    percentile: float
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

    def degenerate(self) -> str | None:
        """Say what to do about labels that are all equal; None if they are not."""
        if self.positives and self.negatives:
            return None
        if not self.positives:
            return (
                "every label is negative: no objective that learns from the threshold can train on "
                "this. Choose a lower percentile, or scores like these for the proxy."
            )
        least = self.contrast_from
        higher = "higher percentile" if least is None else f"percentile of {least} or more"
        return (
            "every label is positive: tgo, kto and bco refuse this, since nothing is contrasted; sft "
            f"trains on every sample. To contrast, choose a {higher}."
        )

    def warnings(self) -> list[str]:
        """Return sentences that a person should read before the training starts."""
        notes = []
        if self.confidence > 0 and self.weight_p90 < 1.5:
            advice = "a larger confidence" if self.score_scale != "none" else 'score_scale "std"'
            above = self.weight_p90 - 1
            most = f"are at most 1 + {above:.2g}" if above > 0 else "are 1"
            notes.append(
                f"nine of ten weights {most}, so the confidence weight "
                "does next to nothing (usual for scores of small spread, HPSv2.1 for one). "
                f"Use {advice} if it should."
            )
        elif self.weight_max > 20 * self.weight_median or self.weight_median > 100:
            advice = "a smaller confidence" if self.score_scale != "none" else 'score_scale "mad"'
            notes.append(
                f"weights reach {self.weight_max:.3g} with a median of {self.weight_median:.3g}: "
                f"they rescale the learning rate or let a few samples decide. Use {advice}."
            )
        if self.degenerate_share is not None and self.degenerate_share > 0.5:
            notes.append(
                f"{self.degenerate_share:.0%} of the rows belong to prompts whose images all share "
                "one label: the threshold tells prompts apart more than images. "
                "Consider a per-prompt threshold (kappa)."
            )
        return notes

    def __str__(self) -> str:
        share = self.positives / self.count
        kind = f"confidence {self.confidence:g}, score_scale {self.score_scale}"
        lines = [
            f"threshold {self.threshold:.6g} (percentile {self.percentile:g} of {self.count})",
            f"labels    {self.positives} positive ({share:.1%}), {self.negatives} negative, "
            f"{self.ties} exactly at it",
            f"weights   min {self.weight_min:.4g}  median {self.weight_median:.4g}  "
            f"p90 {self.weight_p90:.4g}  max {self.weight_max:.4g}  ({kind})",
        ]
        if self.degenerate_share is not None:
            share = self.degenerate_share
            lines.append(f"prompts   {share:.1%} of the rows are in prompts with a single label")
        degenerate = self.degenerate()
        lines += [] if degenerate is None else [f"WARNING   {degenerate}"]
        return "\n".join(lines + [f"note      {note}" for note in self.warnings()])
