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

    def warnings(self) -> list[str]:
        """Return sentences that a person should read before the training starts."""
        notes = []
        if not self.positives or not self.negatives:
            only = "positive" if self.positives else "negative"
            notes.append(
                f"every sample is {only}: nothing is contrasted. Choose another percentile."
            )
        if self.confidence > 0 and self.weight_p90 < 1.5:
            advice = "a larger confidence" if self.score_scale != "none" else 'score_scale "std"'
            notes.append(
                f"nine of ten weights are below {self.weight_p90:.3g}, so the confidence weight "
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
        return "\n".join(lines + [f"note      {note}" for note in self.warnings()])
