"""Sides and histograms of scores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tglo.look.labels import label
from tglo.look.scores import BARS, facts_of, histogram
from tglo.threshold import estimate

SCORES = np.random.default_rng(0).normal(size=301)
PROMPTS = [f"p{n % 7}" for n in range(301)]


@pytest.mark.parametrize("confidence", [0.0, 5.0, math.inf])
def test_sides_have_the_weights_of_the_loss(confidence: float) -> None:
    threshold = estimate(SCORES, 60, score_scale="std")
    found = label(SCORES, threshold, PROMPTS, confidence, normalised=True)
    distance = np.abs(SCORES - threshold.value) / threshold.scale
    weight = distance if confidence == math.inf else 1 + confidence * distance
    weight /= weight.mean()
    for side, chosen in (
        (found.positives, SCORES >= threshold.value),
        (found.negatives, SCORES < threshold.value),
    ):
        of = weight[chosen]
        assert side.count == chosen.sum()
        assert side.weight == pytest.approx(of.sum())
        assert side.effective == pytest.approx(of.sum() ** 2 / (of**2).sum())
    if confidence == 0:
        assert found.positives.effective == pytest.approx(found.positives.count)


def test_an_empty_side_weighs_nothing() -> None:
    found = label(SCORES, estimate(SCORES, 0), PROMPTS, 5.0)
    assert (found.negatives.count, found.negatives.weight, found.negatives.effective) == (0, 0, 0)


def test_a_histogram_counts_every_score_once() -> None:
    positive = SCORES >= 0.1
    found = histogram(SCORES, positive, np.full(301, 2.0))
    counts = [*found.positives, *found.negatives]
    assert sum(counts) + found.below + found.above == 301 and len(found.positives) == BARS
    assert sum(found.positive_weights) == 2 * sum(found.positives)


def test_scores_as_large_as_they_may_be() -> None:
    with np.errstate(all="raise"):
        found = facts_of(np.array([1e300, -1e300] * 4))
    assert (found.mean, found.deviation) == (0, 1e300)


def test_few_scores_have_a_bar_each() -> None:
    found = histogram(np.array([1.0, 2, 2, 5, 5, 5]))
    assert found.negatives == [1, 2, 0, 0, 3]
    assert (found.low, found.width) == (0.5, 1.0)
    assert histogram(np.array([3.0, 3.0])).negatives == [2]


def test_an_outlier_does_not_flatten_the_rest() -> None:
    found = histogram(np.append(np.tile(SCORES, 10), 1e6))
    assert found.above == 1 and found.high < 10


@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_facts_do_not_suffer_from_an_offset(offset: float) -> None:
    found = facts_of(SCORES + offset)
    assert found.deviation == pytest.approx(SCORES.std(), rel=1e-6)
    assert found.mean - offset == pytest.approx(SCORES.mean(), abs=1e-6)
    assert found.distinct == 301 and found.quantiles[50] == np.median(SCORES + offset)
