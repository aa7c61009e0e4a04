"""Draws what each baseline of the threshold does to real scores: the picture of docs/threshold.md.

    python -m tglo.shapes world
    tglo generate --model ./world/base --prompts world/prompts/train.txt --output data --count 4 --steps 20 --guidance 3
    tglo score data/manifest.csv --output data/scored.csv --scorer tglo.shapes.rewards:compressibility \\
        --scorer tglo.shapes.rewards:stars --scorer tglo.shapes.rewards:faithfulness
    python examples/thresholds.py data/scored.csv docs/threshold.png \\
        tglo.shapes.rewards:compressibility tglo.shapes.rewards:stars tglo.shapes.rewards:faithfulness

Any manifest with several scored images of each prompt will do; its columns of scores are named at the end.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from tglo.data.manifest import read_manifest
from tglo.evaluate.figures import panel_grid, png
from tglo.files import write_bytes
from tglo.threshold import Threshold, describe, estimate

BASELINES = ("percentile", "mean", "oracle")
POSITIVE, NEGATIVE = "#3c8c3c", "#b05050"


def thresholds(scores: np.ndarray, prompts: list[str]) -> dict[str, Threshold]:
    """Estimate each baseline."""
    return {
        name: estimate(scores, baseline=name, prompts=None if name == "percentile" else prompts)
        for name in BASELINES
    }


def draw_scores(axes: Any, name: str, scores: np.ndarray, found: dict[str, Threshold]) -> None:
    """Draw the scores, the two global thresholds, and those of single prompts below them."""
    axes.hist(scores, bins=40, color="#d0d0d0")
    axes.axvline(found["percentile"].value, color="black", linestyle="--", label="percentile 50")
    axes.axvline(found["mean"].value, color="black", label="mean")
    own = found["oracle"]
    assert own.fit is not None
    axes.plot(
        list(own.per_prompt.values()),
        np.full(len(own.per_prompt), -0.06 * axes.get_ylim()[1]),
        "|",
        color="#3060a0",
        label=f"oracle, one for each prompt (B = {own.fit.factor:.2f})",
    )
    axes.set(title=name.rpartition(":")[2], xlabel="score", ylabel="images")
    axes.margins(y=0.05)
    axes.set_ylim(top=1.4 * axes.get_ylim()[1])
    axes.legend(facecolor="white", edgecolor="none", framealpha=0.85, fontsize=7, loc="upper left")


def draw_sides(
    axes: Any, scores: np.ndarray, prompts: list[str], found: dict[str, Threshold]
) -> None:
    """Draw the total weight of each side with w = |s - tau|, in standard deviations of the scores an image."""
    unit = scores.std() * scores.size
    for place, threshold in enumerate(found.values()):
        summary = describe(scores, threshold, math.inf, prompts)
        up, down = summary.positive_weight / unit, summary.negative_weight / unit
        axes.bar(place - 0.2, up, 0.38, color=POSITIVE, label=None if place else "positives")
        axes.bar(place + 0.2, down, 0.38, color=NEGATIVE, label=None if place else "negatives")
        words = f"{up / down:.2f} : 1" if up > down else f"1 : {down / up:.2f}"
        if math.isclose(up, down, rel_tol=1e-6):
            words = "equal"
        axes.text(place, max(up, down), words, ha="center", va="bottom", fontsize=7)
    axes.set_xticks(range(len(found)), [*found])
    axes.set(title="total weight of each side", ylabel="standard deviations")
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])
    axes.legend(frameon=False, fontsize=7, ncols=2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("scores", nargs="+", help="columns of scores")
    options = parser.parse_args()
    figure, rows = panel_grid((8.5, 2.6 * len(options.scores)), rows=len(options.scores), columns=2)
    for (left, right), name in zip(rows, options.scores, strict=True):
        manifest = read_manifest(options.manifest, score_column=name)
        scores, prompts = manifest.scores(), manifest.prompts()
        found = thresholds(scores, prompts)
        draw_scores(left, name, scores, found)
        draw_sides(right, scores, prompts, found)
    write_bytes(options.output, png(figure))


if __name__ == "__main__":
    main()
