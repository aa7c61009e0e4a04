"""From scores to the numbers of an evaluation: what evaluation.json holds and all else is drawn from.

    prompt_sets: SET:
        prompts, images         distinct prompts; images of each model ("videos" of models of videos)
        models: MODEL:
            diversity           estimate, or null for one image of each prompt
            scores: SCORER:     trained_on, mean and median (estimates), deviation, quantiles
        win_rates: SCORER: MODEL: OTHER: estimate
        categories: CATEGORY:   prompts, win_rates: SCORER: MODEL: estimate against the base

An estimate is {value, low, high}; see tglo.evaluate.statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tglo.evaluate import statistics
from tglo.evaluate.samples import ModelSamples
from tglo.evaluate.settings import BASE, Evaluation
from tglo.generation.prompts import PromptSet

QUANTILES = (0.0, 0.05, 0.25, 0.75, 0.95, 1.0)
Results = dict[str, Any]


def results(settings: Evaluation, sets: Sequence[PromptSet], samples: ModelSamples) -> Results:
    """Return the numbers of each prompt set, by its name."""
    return {chosen.name: _set(settings, chosen, samples) for chosen in sets}


def _set(settings: Evaluation, chosen: PromptSet, samples: ModelSamples) -> Results:
    rows = samples.rows(chosen.prompts)
    counts = statistics.resample(len(rows), settings.resamples, settings.seed)
    models = {}
    for model in settings.names:
        trained_on = settings.trained_on.get(model, ())
        scores = {
            scorer: {"trained_on": scorer in trained_on, **_describe(values[rows], counts)}
            for scorer, values in samples.scores[model].items()
        }
        found = samples.diversity.get(model)
        diversity = None if found is None else asdict(statistics.mean(found[rows], counts))
        models[model] = {"diversity": diversity, "scores": scores}
    return {
        "prompts": len(rows),
        "videos" if samples.frames else "images": len(rows) * samples.count,
        "models": models,
        "win_rates": {
            scorer: {
                model: _win_rates(samples, scorer, model, settings.names, rows, counts)
                for model in settings.names
            }
            for scorer in settings.scorers
        },
        "categories": _categories(settings, chosen, samples, rows),
    }


def _describe(scores: NDArray[np.float64], counts: NDArray[np.int64]) -> Results:
    return {
        "mean": asdict(statistics.mean(scores.mean(axis=1), counts)),
        "median": asdict(statistics.median(scores, counts)),
        "deviation": float(scores.std(ddof=1)),
        "quantiles": {f"{q:g}": float(np.quantile(scores, q)) for q in QUANTILES},
    }


def _win_rates(
    samples: ModelSamples,
    scorer: str,
    model: str,
    others: Sequence[str],
    rows: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> Results:
    """Return the win rate of a model against each of the others, on the prompts of these rows."""
    scores = {name: samples.scores[name][scorer][rows] for name in (model, *others)}
    return {
        other: asdict(statistics.mean(statistics.wins(scores[model], scores[other]), counts))
        for other in others
        if other != model
    }


def _categories(
    settings: Evaluation, chosen: PromptSet, samples: ModelSamples, rows: NDArray[np.int64]
) -> Results:
    """Return the results of categories of at least 2 prompts, which an interval needs."""
    found = {}
    for category in dict.fromkeys(chosen.categories):
        mine = rows[np.array(chosen.categories) == category]
        if len(mine) < 2:
            continue
        counts = statistics.resample(len(mine), settings.resamples, settings.seed)
        win_rates = {
            scorer: {
                model: _win_rates(samples, scorer, model, [BASE], mine, counts)[BASE]
                for model in settings.models
            }
            for scorer in settings.scorers
        }
        found[category] = {"prompts": len(mine), "win_rates": win_rates}
    return found
