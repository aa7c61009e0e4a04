"""The pictures of the demo's report."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tglo.demo.report import Outcome

COLOURS = {"base": "#8a8a8a", "SFT": "#d98c21", "TGO": "#1f6fb4"}


def sample_grid(outcomes: list[Outcome], columns: np.ndarray, scale: int = 3) -> Image.Image:
    """One row of samples per model; a column is one prompt and one seed."""
    side, label = outcomes[0].images[0].width * scale, 64
    page = Image.new("RGB", (label + side * len(columns), side * len(outcomes)), "white")
    text = ImageDraw.Draw(page)
    for row, outcome in enumerate(outcomes):
        text.text(
            (8, row * side + side // 2 - 10), outcome.name, fill=COLOURS[outcome.name], font_size=20
        )
        for column, index in enumerate(columns):
            tile = outcome.images[index].resize((side, side), Image.Resampling.BICUBIC)
            page.paste(tile, (label + column * side, row * side))
    return page


def score_histograms(
    training_scores: np.ndarray, threshold: float, outcomes: list[Outcome]
) -> bytes:
    """PNG: training scores, split by the threshold, and the scores of every model's samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    everything = np.concatenate([training_scores, *(outcome.scores for outcome in outcomes)])
    bins = np.linspace(0.0, float(everything.max()) * 1.02 + 1e-9, 45)
    below, above = (
        training_scores[side]
        for side in (training_scores < threshold, training_scores >= threshold)
    )
    left.hist(
        [below, above],
        bins=bins,
        stacked=True,
        color=["#c8c8c8", "#6aa86a"],
        label=["negative", "positive"],
    )
    left.axvline(threshold, color="black", linewidth=1.2, label=f"threshold {threshold:.2f}")
    left.set(
        title=f"Training set: {len(training_scores)} samples of the base model",
        xlabel="score (pixels)",
    )
    for outcome in outcomes:
        colour, label = COLOURS[outcome.name], f"{outcome.name}, mean {outcome.mean:.2f}"
        right.hist(outcome.scores, bins=bins, histtype="stepfilled", alpha=0.3, color=colour)
        right.hist(
            outcome.scores, bins=bins, histtype="step", linewidth=1.6, color=colour, label=label
        )
    right.axvline(threshold, color="black", linewidth=1.2)
    right.set(
        title=f"Fresh samples: {len(outcomes[0].scores)} of each model", xlabel="score (pixels)"
    )
    for axes in (left, right):
        axes.legend(frameon=False)
    return _png(figure)


def training_curves(metrics: dict[str, list[dict[str, float]]]) -> bytes:
    """PNG from the runs' metrics.jsonl: losses, and what the log-ratio of TGO does."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
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
    return _png(figure)


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _curve(axes: Any, lines: list[dict[str, float]], key: str, colour: str, label: str) -> None:
    points = [(line["step"], line[key]) for line in lines if key in line]
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, label=label)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
