"""From scores to the numbers of an evaluation: what evaluation.json holds and all else is drawn from.

    prompt_sets: SET:
        prompts, images         distinct prompts; images of each model ("videos" of models of videos)
        models: MODEL:
            diversity           estimate, or null for one image of each prompt
            scores: SCORER:     trained_on, mean and median (estimates), deviation, quantiles
        win_rates: SCORER: MODEL: OTHER: estimate
        differences: SCORER: MODEL: OTHER: estimate of the mean score minus the other's
        diversity_differences: MODEL: OTHER: the same of diversity; empty for one image of each prompt
        categories: CATEGORY:   prompts, win_rates: SCORER: MODEL: estimate against the base

An estimate is {value, low, high}; see tglo.evaluate.statistics. Differences are paired: of the same
prompts and seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tglo.evaluate import statistics
from tglo.evaluate.samples import ModelSamples
from tglo.evaluate.settings import BASE, Evaluation
from tglo.generation.prompts import PromptSet

Floats = NDArray[np.float64]
QUANTILES = (0.0, 0.05, 0.25, 0.75, 0.95, 1.0)
Results = dict[str, Any]


def results(settings: Evaluation, sets: Sequence[PromptSet], samples: ModelSamples) -> Results:
    """Return the numbers of each prompt set, by its name."""
    return {chosen.name: _set(settings, chosen, samples) for chosen in sets}


def _set(settings: Evaluation, chosen: PromptSet, samples: ModelSamples) -> Results:
    rows = samples.rows(chosen.prompts)
    counts = statistics.resample(len(rows), settings.resamples, settings.seed)
    models = {}

    def difference(mine: Floats, other: Floats) -> statistics.Estimate:
        return statistics.difference(mine, other, counts)

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
            scorer: _pairs(_of_rows(samples, scorer, rows), _win_rate)
            for scorer in settings.scorers
        },
        "differences": {
            scorer: _pairs(_of_rows(samples, scorer, rows), difference)
            for scorer in settings.scorers
        },
        "diversity_differences": _pairs(
            {model: found[rows] for model, found in samples.diversity.items()}, difference
        ),
        "categories": _categories(settings, chosen, samples, rows),
    }


def _describe(scores: Floats, counts: NDArray[np.int64]) -> Results:
    return {
        "mean": asdict(statistics.mean(scores.mean(axis=1), counts)),
        "median": asdict(statistics.median(scores, counts)),
        "deviation": float(scores.std(ddof=1)),
        "quantiles": {f"{q:g}": float(np.quantile(scores, q)) for q in QUANTILES},
    }


def _of_rows(samples: ModelSamples, scorer: str, rows: NDArray[np.int64]) -> dict[str, Floats]:
    """Return the scores (P, n) of each model on the prompts of these rows."""
    return {model: scores[scorer][rows] for model, scores in samples.scores.items()}


def _win_rate(scores: Floats, others: Floats) -> statistics.Estimate:
    return statistics.share(statistics.wins(scores, others))


def _pairs(
    values: Mapping[str, Floats], compare: Callable[[Floats, Floats], statistics.Estimate]
) -> Results:
    """Compare every model with every other."""
    return {
        model: {other: asdict(compare(mine, values[other])) for other in values if other != model}
        for model, mine in values.items()
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
        win_rates = {}
        for scorer in settings.scorers:
            scores = _of_rows(samples, scorer, mine)
            win_rates[scorer] = {
                model: asdict(_win_rate(scores[model], scores[BASE])) for model in settings.models
            }
        found[category] = {"prompts": len(mine), "win_rates": win_rates}
    return found
