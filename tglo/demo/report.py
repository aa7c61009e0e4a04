"""The demo's numbers, as a table and a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tglo.evaluate import html
from tglo.evaluate.tables import Table


@dataclass(frozen=True)
class Outcome:
    """Samples of one model on the evaluation prompts and seeds, which all models share; arrays (N,)."""

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
        """Return the gain over ``base``: in score, in standard errors of the difference, in standard
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
        """Return the numbers of this model's line in the table."""
        return {
            "score": self.mean,
            "standard_error": self.standard_error,
            **{f"gain_{unit}": value for unit, value in self.gain(base).items()},
            "accuracy": self.accuracy,
            "legibility": float(self.legibility.mean()),
            "stroke_width": float(self.stroke_width.mean()),
        }


CAPTIONS = {
    "samples.png": "Before and after: the same prompt and seed in every column",
    "scores.png": "Scores and threshold",
    "training.png": "Training",
}


def table(outcomes: Sequence[Outcome]) -> Table:
    """Return the table of the report; the first outcome is the base model."""
    rows: list[dict[str, str]] = []
    for outcome in outcomes:
        row = outcome.row(outcomes[0])
        gain = (
            f"{row['gain_score']:+.2f} = {row['gain_standard_deviations']:+.2f} s.d. "
            f"= {row['gain_standard_errors']:+.1f} s.e."
        )
        rows.append(
            {
                "model": outcome.name,
                "mean score ± s.e.": f"{row['score']:.3f} ± {row['standard_error']:.3f}",
                "gain over base": gain if rows else "",
                "digit correct": f"{row['accuracy']:.1%}",
                "legibility": f"{row['legibility']:.3f}",
                "stroke width": f"{row['stroke_width']:.2f} px",
            }
        )
    return Table("Models", list(rows[0]), [list(row.values()) for row in rows])


def write_report(
    folder: Path,
    outcomes: Sequence[Outcome],
    pictures: Mapping[str, bytes],
    *,
    title: str,
    facts: Sequence[str],
    commands: str,
) -> Path:
    """Write ``pictures`` (PNG bytes by file name) and ``report.html``, which embeds them; returns its
    path. title: what the base model is, the beginning of a sentence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
    page = html.document(
        "Threshold-guided optimization of a digit model",
        _INTRODUCTION.format(title=html.text(title)),
        [
            html.grid(table(outcomes)),
            _VERDICT,
            html.bullets(facts),
            *(html.figure(CAPTIONS[name], data) for name, data in pictures.items()),
            f"<h2>The same by hand</h2>\n<pre>{html.text(commands)}</pre>",
        ],
    )
    target = folder / "report.html"
    target.write_text(page, encoding="utf-8")
    return target


_INTRODUCTION = """<p>{title}, pre-trained on real handwritten digits, is aligned with a
taste for bold strokes: score = probability of the prompted digit &times; mean stroke width in
pixels. SFT trains on the samples at or above the threshold alone; TGO also learns from those below
it. Both start from the base model and take as many steps.</p>"""
_VERDICT = """<p>"Digit correct" is the verdict of a classifier of another kind, fitted on other real digits,
which the score does not use.</p>"""
