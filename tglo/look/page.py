"""The page of a data set, from what was found in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tglo.data.manifest import Manifest
from tglo.files import write_bytes
from tglo.look.charts import Chart, amount, chart
from tglo.look.findings import Findings
from tglo.look.sheet import chosen
from tglo.look.shots import Shots
from tglo.look.survey import SHOWN
from tglo.pages.render import page

LEVELS = {"stop": "stops training", "warning": "warning", "note": "note"}


def write_page(path: Path, manifest: Manifest, found: Findings) -> None:
    """Write the page of what `survey` found in a manifest, atomically; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, render(manifest, found).encode("utf-8", "replace"))


def render(manifest: Manifest, found: Findings) -> str:
    """Return the page, with the images inside that it shows."""
    shots = Shots(manifest, found)
    labelled = found.labelled
    return page(
        "look.html",
        title=f"Look: {Path(found.manifest).name or found.manifest}",
        found=found,
        facts=_facts(found),
        levels=LEVELS,
        charts=_charts(found),
        quantiles=_quantiles(found),
        sides=[] if labelled is None else _sides(found),
        weight_share=None if labelled is None else _share(found),
        summary="" if labelled is None else str(labelled.summary),
        run=_run(found),
        galleries=[
            ("Best images", shots.of(found.best)),
            ("Images nearest to the threshold", shots.of(found.nearest)),
            ("Worst images", shots.of(found.worst)),
            ("Some images", [] if found.scored else shots.of(chosen(found.rows, SHOWN).tolist())),
        ],
        conflicts=shots.conflicts(),
        compared=_compared(found),
        most_of_buckets=max((bucket.images for bucket in found.sizes.buckets), default=1),
    )


def _facts(found: Findings) -> list[tuple[str, str]]:
    prompts, scores = found.prompts, found.scores
    rows = [
        ("Rows", f"{found.rows:,}"),
        ("With a score", f"{found.scored:,}"),
        ("Images", f"{found.images:,}"),
        ("Prompts", f"{prompts.count:,}"),
        ("Images a prompt", _range(prompts.least, prompts.median, prompts.most)),
    ]
    if scores is not None:
        rows += [
            ("Mean score", f"{scores.mean:.5g}"),
            ("Standard deviation", f"{scores.deviation:.4g}"),
            ("Different scores", f"{scores.distinct:,}"),
        ]
    return rows


def _range(least: int, median: float, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}, median {median:g}"


def _charts(found: Findings) -> list[tuple[str, str, Chart]]:
    """Return title, explanation and shapes of each chart."""
    bars, labelled = found.histogram, found.labelled
    if bars is None:
        return []
    if labelled is None:
        return [("Scores", "", chart(bars, "Histogram of the scores"))]
    threshold = labelled.threshold
    line = [(threshold.value, f"threshold {threshold.value:.5g}")]
    band, text = None, ""
    if found.differences is not None:
        low, high = np.percentile(labelled.tau, [5, 95]).tolist()
        band = (low, high)
        line = [(threshold.value, f"global {threshold.value:.5g}")]
        text = f"The threshold differs by prompt: nine of ten are between {low:.5g} and {high:.5g}, which is shaded."
    label = f"Histogram of {found.scored} scores, threshold at {threshold.value:.5g}"
    drawn = [("Scores", text, chart(bars, label, lines=line, band=band))]
    if found.differences is not None:
        difference = chart(
            found.differences,
            "Histogram of the scores' distances from their thresholds",
            lines=[(0.0, "threshold")],
        )
        drawn.append(("Distance from the prompt's threshold", "", difference))
    weights = chart(
        found.differences or bars,
        "What the samples weigh, by score",
        lines=[(0.0, "threshold")] if found.differences else line,
        weights=True,
    )
    drawn.append(
        ("Weight by score" if not found.differences else "Weight by distance", "", weights)
    )
    return drawn


def _quantiles(found: Findings) -> list[tuple[str, str]]:
    if found.scores is None:
        return []
    names = {0: "least", 50: "median", 100: "most"}
    return [
        (names.get(percent, f"{percent}%"), f"{value:.5g}")
        for percent, value in found.scores.quantiles.items()
    ]


def _sides(found: Findings) -> list[list[str]]:
    labelled = found.labelled
    assert labelled is not None
    rows = []
    for name, side in (("At or above", labelled.positives), ("Below", labelled.negatives)):
        mean = side.weight / side.count if side.count else 0.0
        numbers = [f"{side.count / found.scored:.1%}", amount(side.weight), f"{mean:.4g}"]
        rows.append([name, f"{side.count:,}", *numbers, f"{side.effective:,.0f}"])
    return rows


def _share(found: Findings) -> float:
    """Return the share of all weight that the positives have, in percent."""
    labelled = found.labelled
    assert labelled is not None
    total = labelled.positives.weight + labelled.negatives.weight
    return 100 * labelled.positives.weight / total if total else 50.0


def _run(found: Findings) -> list[tuple[str, str]]:
    run = found.prospects
    if run is None:
        return []
    rows = [
        ("Recipe", run.recipe),
        ("Objective", f"{run.objective}, reference {run.reference}"),
        ("Optimizer", run.optimizer),
        ("Steps", f"{run.steps:,} of {run.batch:,} samples, with one process"),
    ]
    if not run.weighs:
        rows += [
            ("Weights", f"{run.objective} has none: those on this page are what tgo would use")
        ]
    if run.samples is not None and run.positives is not None:
        negatives = run.samples - run.positives
        rows += [
            (
                "Trains on",
                f"{run.samples:,} rows: {run.positives:,} at or above the threshold, {negatives:,} below",
            )
        ]
        if run.unit != "rows":
            rows += [(run.unit.capitalize(), f"{run.units:,}")]
    if run.epochs is not None and run.samples:
        seen = run.steps * run.batch / run.samples
        rows += [
            ("Steps an epoch", f"{run.steps_per_epoch:,}"),
            ("Epochs", f"{run.epochs:.3g}; a sample comes {seen:.3g} times on average"),
        ]
    if run.bucket_shares:
        low, high = min(run.bucket_shares.values()), max(run.bucket_shares.values())
        rows += [
            (
                "Buckets",
                f"{len(run.bucket_shares)}; a row counts {low:.3g} to {high:.3g} times its share",
            )
        ]
    source = (
        "the cache"
        if run.cached
        else "the manifest alone: there is no cache yet, so images count as of one size"
    )
    return [*rows, ("Known from", source)]


def _compared(found: Findings) -> str:
    contents = found.contents
    if contents.compared == contents.of:
        what = "all images that are there"
    else:
        what = f"{contents.compared:,} of {contents.of:,} images that are there"
    return f"Names were compared in all rows, and {what} by their content."
