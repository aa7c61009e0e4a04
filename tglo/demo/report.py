"""What the demo found, as a self-contained HTML page and a summary for the terminal."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Outcome:
    """Samples of one model on the evaluation prompts and seeds, which all models share; arrays are
    (N,).
    """

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
        """Gain over ``base``: in score, in standard errors of the difference, in standard
        deviations of the base.

        The standard error is that of two independent means: an upper bound here, since both share
        their seeds.
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
    titles = ("mean score", "gain over base", "digit correct", "stroke width")
    lines = ["{:5} {:>15} {:>32} {:>14} {:>13}".format("", *titles)]
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


def write_report(
    folder: Path,
    outcomes: list[Outcome],
    pictures: dict[str, bytes],
    *,
    title: str,
    facts: list[str],
    commands: str,
) -> Path:
    """Writes ``pictures`` (title by file name, PNG bytes) and ``report.html``, which embeds them;
    returns its path. title: what the base model is, the beginning of a sentence.
    """
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
        title=html.escape(title),
        table=_table(outcomes),
        facts="\n".join(f"<li>{html.escape(fact)}</li>" for fact in facts),
        figures="\n".join(figures),
        commands=html.escape(commands),
    )
    target = folder / "report.html"
    target.write_text(page, encoding="utf-8")
    return target


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


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>tglo demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222 }}
body {{ max-width: 62rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse }}
th, td {{ padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }} img {{ max-width: 100% }}
pre {{ background: #f5f5f5; padding: 1rem; overflow-x: auto }}
</style>
<h1>Threshold-guided optimization of a digit model</h1>
<p>{title}, pre-trained on real handwritten digits, is aligned with a
taste for bold strokes: score = probability of the prompted digit &times; mean stroke width in
pixels. SFT trains on the samples at or above the threshold alone; TGO also learns from those below
it. Both start from the base model and take as many steps.</p>
<table><tr><th>model</th><th>mean score &plusmn; s.e.</th><th>gain</th><th>in s.d. of base</th>
<th>in s.e.</th><th>digit correct</th><th>legibility</th><th>stroke width</th></tr>
{table}
</table>
<p>"Digit correct" is the verdict of a classifier of another kind, fitted on other real digits,
which the score does not use.</p>
<ul>
{facts}
</ul>
{figures}
<h2>The same by hand</h2>
<pre>{commands}</pre>
</html>
"""
