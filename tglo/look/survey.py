"""Looks through a data set: every part of the findings, in one place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tglo.cache.latents import LatentCache
from tglo.data.buckets import Size
from tglo.data.manifest import Manifest
from tglo.look import notes
from tglo.look.contents import contents
from tglo.look.findings import Findings
from tglo.look.labels import Labelled, label
from tglo.look.presence import missing_images, presence
from tglo.look.prompts import prompt_facts
from tglo.look.prospects import has_cache, prospects
from tglo.look.repeats import repeats
from tglo.look.scores import Histogram, facts_of, histogram
from tglo.look.sheet import Sheet, shuffled
from tglo.look.sizes import Sizes, sizes
from tglo.objectives import OBJECTIVES
from tglo.threshold.frozen import Threshold
from tglo.train.config import TrainConfig
from tglo.train.samples import threshold_of

SHOWN = 12
"""Images of each kind that a page shows."""


def survey(
    manifest: Manifest,
    config: TrainConfig,
    *,
    threshold: Threshold | None = None,
    is_run: bool = False,
    resolution: int | None = None,
) -> Findings:
    """Look through a manifest.

    config: says how scores are judged and weighed, and where a cache is. is_run: it is a run's, and what the run
    would do is told. threshold: one that is there already; else it is read or estimated as `config` says. What
    cannot be estimated is told, and so is what is wrong with single images. resolution: of buckets, where no cache
    has its own; None: 1024 is assumed, and told.

    Raises ValueError for a threshold of other data or out of its limits.
    """
    sheet = Sheet(manifest)
    found, why_none = _labelled(sheet, config, threshold)
    scores = sheet.scores[sheet.scored]
    missing = missing_images(manifest, sheet.images)
    there = presence(sheet.images, missing)
    present = np.delete(np.arange(len(sheet.images)), missing)
    alike, known = contents(sheet, present), _sizes(sheet, present, config, resolution)
    prompts, named = prompt_facts(sheet), repeats(sheet)
    run = prospects(config, sheet, found) if is_run else None
    baseline = config.data.baseline if found is None else found.threshold.baseline
    per_prompt = config.data.per_prompt if found is None else found.threshold.kappa is not None
    best, worst, nearest = _shown(sheet, found)
    return Findings(
        manifest=manifest.path,
        rows=len(sheet),
        scored=int(sheet.scored.size),
        images=len(sheet.images),
        prompts=prompts,
        scores=facts_of(scores) if scores.size else None,
        labelled=found,
        histogram=_histogram(scores, found),
        differences=None
        if found is None or not np.ptp(found.tau)
        else histogram(scores - found.tau, found.positive, found.weight),
        best=best,
        worst=worst,
        nearest=nearest,
        repeats=named,
        presence=there,
        contents=alike,
        sizes=known,
        prospects=run,
        notes=sorted(
            [
                *notes.about_scores(sheet, why_none),
                *([] if found is None else notes.about_labels(found)),
                *([] if run is None else notes.about_run(run)),
                *notes.about_repeats(named),
                *notes.about_images(there, known, alike),
                *notes.about_prompts(prompts, baseline, per_prompt),
            ],
            key=lambda note: ("stop", "warning", "note").index(note.level),
        ),
    )


def _labelled(
    sheet: Sheet, config: TrainConfig, threshold: Threshold | None
) -> tuple[Labelled | None, str]:
    """Return the labels, or why there are none; "" where no row has a score, which is told elsewhere."""
    rows = sheet.manifest.select(sheet.scored.tolist())
    if not len(rows):
        return None, ""
    if threshold is None and config.data.threshold is not None:
        threshold = Threshold.load(config.data.threshold)
    if threshold is not None:
        threshold.check(rows.scores())
    else:
        try:
            threshold = threshold_of(config, rows)
        except (
            ValueError,
            OSError,
        ) as error:  # scores that are all equal, prompts without embeddings
            return None, str(error)
    chosen, weighs = config.objective, OBJECTIVES[config.objective.name].weighs
    try:
        labelled = label(
            rows.scores(),
            threshold,
            rows.prompts(),
            float(chosen.confidence),
            normalised=weighs and chosen.weight_normalisation,
            balance=weighs and chosen.balance,
        )
    except ValueError as error:  # a side that is to be balanced, and weighs nothing
        return None, str(error)
    return labelled, ""


def _histogram(scores: NDArray[np.float64], found: Labelled | None) -> Histogram | None:
    if not scores.size:
        return None
    if found is None:
        return histogram(scores)
    return histogram(scores, found.positive, found.weight)


def _shown(sheet: Sheet, found: Labelled | None) -> tuple[list[int], list[int], list[int]]:
    """Return the best rows, the worst and those nearest to their thresholds; of equal ones some by chance, and an
    image once. Where there are few images, none is among the best and among the worst by the same score.
    """
    if not sheet.scored.size:
        return [], [], []
    order = shuffled(sheet.scored.size)
    rows = sheet.scored[order]
    scores = sheet.scores[rows]
    ranked = rows[np.argsort(-scores, kind="stable")]
    several = len(_first(sheet, ranked, 2 * SHOWN))
    best = _first(sheet, ranked, (several + 1) // 2)
    worst = _first(sheet, ranked[::-1], several // 2)
    if found is None:
        return best, worst, []
    distance = np.abs(sheet.scores[sheet.scored] - found.tau)[order]
    return best, worst, _first(sheet, rows[np.argsort(distance, kind="stable")])


def _first(sheet: Sheet, rows: NDArray[np.int64], most: int = SHOWN) -> list[int]:
    chosen: dict[int, int] = {}
    for row in rows.tolist():
        if len(chosen) == most:
            break
        chosen.setdefault(int(sheet.image_of[row]), row)
    return list(chosen.values())


def _sizes(
    sheet: Sheet, present: NDArray[np.int64], config: TrainConfig, resolution: int | None
) -> Sizes:
    if not has_cache(config):
        return sizes(sheet, present, resolution)
    cache = LatentCache(config.data.cache)
    named = (bucket.split("x")[-2:] for bucket in cache.fingerprint["buckets"].split())
    buckets: list[Size] = sorted({(int(height), int(width)) for height, width in named})
    return sizes(sheet, present, int(cache.fingerprint["resolution"]), buckets)
