"""The pictures of the demo's report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tglo.demo.report import Outcome
from tglo.evaluate import gallery as galleries
from tglo.evaluate.figures import colour, image_grid, outline, panel_grid, png

COLOURS = {"base": colour(0), "SFT": colour(2), "TGO": colour(1)}


def sample_grid(outcomes: Sequence[Outcome], columns: np.ndarray, tile: int = 96) -> bytes:
    """Draw, as PNG, one row of samples per model; a column is one prompt and one seed."""
    rows = {outcome.name: [outcome.images[index] for index in columns] for outcome in outcomes}
    return png(image_grid(rows, [COLOURS[name] for name in rows], tile))


def gallery(outcomes: Sequence[Outcome], columns: np.ndarray) -> list[galleries.Row]:
    """Return the same samples for the page, a row of models for each prompt and seed."""
    return [
        galleries.row_of(
            outcomes[0].prompts[index],
            {outcome.name: outcome.images[index] for outcome in outcomes},
            COLOURS,
        )
        for index in columns
    ]


def score_histograms(
    training_scores: np.ndarray, thresholds: np.ndarray, outcomes: list[Outcome]
) -> bytes:
    """Draw, as PNG, the training scores (N,), split by the threshold of each (N,), and the scores of every
    model's samples.
    """
    threshold = float(thresholds.mean())
    mean = "mean of the prompts' thresholds" if np.ptp(thresholds) > 0 else "threshold"
    figure, [[left, right]] = panel_grid((9, 3.2), columns=2, sharex=True)
    everything = np.concatenate([training_scores, *(outcome.scores for outcome in outcomes)])
    bins = np.linspace(0.0, float(everything.max()) * 1.02 + 1e-9, 45)
    positive = training_scores >= thresholds
    left.hist(
        [training_scores[~positive], training_scores[positive]],
        bins=bins,
        stacked=True,
        color=["#c8c8c8", "#6aa86a"],
        label=["negative", "positive"],
    )
    left.axvline(threshold, color="black", linewidth=1.2, label=f"{mean} {threshold:.2f}")
    left.set(
        title=f"Training set: {len(training_scores)} samples of the base model",
        xlabel="score (pixels)",
    )
    for outcome in outcomes:
        label = f"{outcome.name}, mean {outcome.mean:.2f}"
        outline(right, outcome.scores, bins, COLOURS[outcome.name], label)
    right.axvline(threshold, color="black", linewidth=1.2)
    right.set(
        title=f"Fresh samples: {len(outcomes[0].scores)} of each model", xlabel="score (pixels)"
    )
    for axes in (left, right):
        axes.legend(frameon=False)
    return png(figure)


def training_curves(metrics: dict[str, list[dict[str, float]]]) -> bytes:
    """Draw, as PNG, the runs' metrics.jsonl: losses, and what the log-ratio of TGO does."""
    figure, [panels] = panel_grid((9, 3.2), columns=3)
    for name, lines in metrics.items():
        _curve(panels[0], lines, "loss", COLOURS[name], name)
    tgo = metrics["TGO"]
    _curve(panels[1], tgo, "r_positive", "#3c8c3c", "positives")
    _curve(panels[1], tgo, "r_negative", "#b04040", "negatives")
    panels[1].axhline(0.0, color="black", linewidth=0.8)
    _curve(panels[2], tgo, "implicit_accuracy", COLOURS["TGO"], "right sign")
    _curve(panels[2], tgo, "saturated", "#8a8a8a", "|r| above 4")
    titles = ("Loss", "TGO: mean implicit score r", "TGO: share of samples")
    for axes, title in zip(panels, titles, strict=True):
        axes.set(title=title, xlabel="step")
        axes.legend(frameon=False)
    return png(figure)


def _curve(
    axes: Any, lines: list[dict[str, float]], key: str, line_colour: str, label: str
) -> None:
    points = [(line["step"], line[key]) for line in lines if key in line]
    if points:
        axes.plot(*zip(*points, strict=True), color=line_colour, label=label)
