"""What the demo found, as pictures, a self-contained HTML page and a summary for the terminal."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"base": "#8a8a8a", "SFT": "#d98c21", "TGO": "#1f6fb4"}


@dataclass(frozen=True)
class Outcome:
    """Samples of one model on the evaluation prompts and seeds, which all models share; arrays are (N,)."""

    name: str
    images: list[Image.Image]
    scores: np.ndarray
    legibility: np.ndarray
    stroke_width: np.ndarray
    accuracy: float

    @property
    def mean(self) -> float:
        return float(self.scores.mean())

    @property
    def standard_error(self) -> float:
        return float(self.scores.std(ddof=1) / np.sqrt(len(self.scores)))

    def gain(self, base: Outcome) -> dict[str, float]:
        """Gain over ``base``: in score, in standard errors of the difference, in standard deviations of the base.

        The standard error is that of two independent means: an upper bound here, since both share their seeds.
        """
        gain = self.mean - base.mean
        error = float(np.hypot(self.standard_error, base.standard_error))
        return {
            "score": gain,
            "standard_errors": gain / error,
            "standard_deviations": gain / float(base.scores.std(ddof=1)),
        }

    def row(self, base: Outcome) -> dict[str, float]:
        """The numbers of this model's line in the table."""
        return {
            "score": self.mean,
            "standard_error": self.standard_error,
            **{f"gain_{unit}": value for unit, value in self.gain(base).items()},
            "accuracy": self.accuracy,
            "legibility": float(self.legibility.mean()),
            "stroke_width": float(self.stroke_width.mean()),
        }


def summary(outcomes: list[Outcome]) -> str:
    """The table for the terminal; the first outcome is the base model."""
    base = outcomes[0]
    lines = [
        f"{'':5} {'mean score':>15} {'gain over base':>32} {'digit correct':>14} {'stroke width':>13}"
    ]
    for outcome in outcomes:
        row = outcome.row(base)
        gain = ""
        if outcome is not base:
            gain = (
                f"{row['gain_score']:+.2f} = {row['gain_standard_deviations']:+.2f} s.d. "
                f"= {row['gain_standard_errors']:+.1f} s.e."
            )
        mean = f"{outcome.mean:.3f} +- {outcome.standard_error:.3f}"
        width = f"{row['stroke_width']:.2f} px"
        lines.append(
            f"{outcome.name:5} {mean:>15} {gain:>32} {outcome.accuracy:>14.1%} {width:>13}"
        )
    return "\n".join(lines)


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
    """PNG: training scores with the threshold that splits them, and fresh samples of every model."""
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


def write_report(
    folder: Path,
    outcomes: list[Outcome],
    pictures: dict[str, bytes],
    *,
    facts: list[str],
    commands: str,
) -> Path:
    """Writes ``pictures`` (title by file name, PNG bytes) and ``report.html``, which embeds them; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = []
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
        encoded = base64.b64encode(data).decode()
        caption = html.escape(CAPTIONS[name])
        figures.append(
            f'<h2>{caption}</h2>\n<img alt="{caption}" src="data:image/png;base64,{encoded}">'
        )
    page = _PAGE.format(
        table=_table(outcomes),
        facts="\n".join(f"<li>{html.escape(fact)}</li>" for fact in facts),
        figures="\n".join(figures),
        commands=html.escape(commands),
    )
    target = folder / "report.html"
    target.write_text(page, encoding="utf-8")
    return target


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


CAPTIONS = {
    "samples.png": "Before and after: the same prompt and seed in every column",
    "scores.png": "Scores and threshold",
    "training.png": "Training",
}


def _table(outcomes: list[Outcome]) -> str:
    base = outcomes[0]
    rows = []
    for outcome in outcomes:
        row = outcome.row(base)
        gains = ["", "", ""]
        if outcome is not base:
            gains = [
                f"{row['gain_score']:+.3f}",
                f"{row['gain_standard_deviations']:+.2f}",
                f"{row['gain_standard_errors']:+.1f}",
            ]
        cells = [
            outcome.name,
            f"{outcome.mean:.3f} &plusmn; {outcome.standard_error:.3f}",
            *gains,
            f"{outcome.accuracy:.1%}",
            f"{row['legibility']:.3f}",
            f"{row['stroke_width']:.2f}",
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "\n".join(rows)


def _curve(axes: object, lines: list[dict[str, float]], key: str, colour: str, label: str) -> None:
    points = [(line["step"], line[key]) for line in lines if key in line]
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, label=label)  # type: ignore[attr-defined]


def _png(figure: object) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)  # type: ignore[attr-defined]
    return buffer.getvalue()


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>tglo demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse }}
th, td {{ padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }} img {{ max-width: 100% }}
pre {{ background: #f5f5f5; padding: 1rem; overflow-x: auto }}
</style>
<h1>Threshold-guided optimization of a digit model</h1>
<p>A small Stable Diffusion pipeline, pre-trained on real handwritten digits, is aligned with a taste for bold strokes:
score = probability of the prompted digit &times; mean stroke width in pixels. SFT trains on the samples at or above the
threshold alone; TGO also learns from those below it. Both start from the base model and take as many steps.</p>
<table><tr><th>model</th><th>mean score &plusmn; s.e.</th><th>gain</th><th>in s.d. of base</th><th>in s.e.</th>
<th>digit correct</th><th>legibility</th><th>stroke width</th></tr>
{table}
</table>
<p>"Digit correct" is the verdict of a classifier of another kind, fitted on other real digits, which the score does not
use.</p>
<ul>
{facts}
</ul>
{figures}
<h2>The same by hand</h2>
<pre>{commands}</pre>
</html>
"""
