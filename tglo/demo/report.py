"""The demo's numbers, as a table and a page of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tglo.evaluate import statistics, tables
from tglo.evaluate.gallery import Row
from tglo.evaluate.statistics import Estimate
from tglo.evaluate.tables import Judged, Table
from tglo.pages.render import page, picture

RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class Outcome:
    """Samples of one model on the evaluation prompts and seeds, which all models share; arrays (N,)."""

    name: str
    images: list[Image.Image]
    prompts: list[str]
    scores: np.ndarray
    legibility: np.ndarray
    stroke_width: np.ndarray
    correct: np.ndarray
    """Whether the judge sees the digit asked for."""

    @property
    def mean(self) -> float:
        return float(self.scores.mean())

    @property
    def standard_error(self) -> float:
        return float(self.scores.std(ddof=1) / np.sqrt(len(self.scores)))

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    def paired_gain(self, base: Outcome) -> Estimate:
        """Return the gain in score over ``base`` on the same prompts and seeds, with its interval.

        The ten digits are all the prompts there are, so it is over the seeds: a bootstrap over the pairs.
        """
        counts = statistics.resample(len(self.scores), RESAMPLES, seed=0)
        return statistics.difference(self.scores, base.scores, counts)

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
        paired, accuracy = self.paired_gain(base), statistics.share(self.correct.astype(float))
        return {
            "score": self.mean,
            "standard_error": self.standard_error,
            **{f"gain_{unit}": value for unit, value in self.gain(base).items()},
            "gain_low": paired.low,
            "gain_high": paired.high,
            "accuracy": self.accuracy,
            "accuracy_low": accuracy.low,
            "accuracy_high": accuracy.high,
            "legibility": float(self.legibility.mean()),
            "stroke_width": float(self.stroke_width.mean()),
        }


CAPTIONS = {"scores.png": "Scores and threshold", "training.png": "Training"}


def table(outcomes: Sequence[Outcome]) -> Table:
    """Return the table of the report; the first outcome is the base model."""
    rows: list[dict[str, str | Judged]] = []
    for outcome in outcomes:
        row = outcome.row(outcomes[0])
        gain, correct = (
            {"value": row[value], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}
            for name, value in (("gain", "gain_score"), ("accuracy", "accuracy"))
        )
        rows.append(
            {
                "model": outcome.name,
                "mean score": f"{row['score']:.3f}",
                "gain over base": _gain(gain, row["gain_standard_deviations"]) if rows else "",
                "digit correct": tables.percent(correct),
                "legibility": f"{row['legibility']:.3f}",
                "stroke width": f"{row['stroke_width']:.2f} px",
            }
        )
    return Table("Models", list(rows[0]), [list(row.values()) for row in rows])


def _gain(gain: Mapping[str, float], deviations: float) -> Judged:
    cell = tables.change(dict(gain))
    return Judged(f"{cell.text} = {deviations:+.2f} s.d.", cell.verdict)


def write_report(
    folder: Path,
    outcomes: Sequence[Outcome],
    pictures: Mapping[str, bytes],
    samples: Sequence[Row],
    *,
    title: str,
    facts: Sequence[str],
    commands: str,
) -> Path:
    """Write ``pictures`` (PNG bytes by file name) and ``report.html``, which shows those of CAPTIONS and the
    samples; returns its path. title: what the base model is, the beginning of a sentence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
    text = page(
        "demo.html",
        title="Threshold-guided optimization of a digit model",
        model=title,
        table=table(outcomes),
        facts=facts,
        samples=samples,
        figures=[(caption, picture(pictures[name])) for name, caption in CAPTIONS.items()],
        commands=commands,
    )
    target = folder / "report.html"
    target.write_text(text, encoding="utf-8")
    return target
