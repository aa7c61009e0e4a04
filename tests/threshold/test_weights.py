from __future__ import annotations

import math

import numpy as np
import pytest

from tglo.threshold.weights import Weighing, weighing

SCORES = np.random.default_rng(0).exponential(size=101)
TAU = np.full(101, float(np.median(SCORES)))
POSITIVE = SCORES >= TAU


@pytest.mark.parametrize("confidence", [0.0, 5.0, math.inf])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("balance", [False, True])
def test_the_formulas(confidence: float, normalised: bool, balance: bool) -> None:
    scale = 2.5
    distance = np.abs(SCORES - TAU) / scale
    plain = distance if confidence == math.inf else 1 + confidence * distance
    expected = plain.copy()
    if balance:
        for side in (POSITIVE, ~POSITIVE):
            expected[side] *= plain.sum() / 2 / plain[side].sum()
    if normalised:
        expected /= expected.mean()
    found = weighing(
        SCORES, TAU, confidence, scale=scale, normalised=normalised, balance=balance
    ).of(SCORES, TAU)
    assert found == pytest.approx(expected, rel=1e-12)
    if normalised:
        assert found.mean() == pytest.approx(1, rel=1e-12)
    else:
        assert found.sum() == pytest.approx(plain.sum(), rel=1e-12)
    if balance:
        assert found[POSITIVE].sum() == pytest.approx(found[~POSITIVE].sum(), rel=1e-12)


def test_the_published_setting_is_known_as_such() -> None:
    assert weighing(SCORES, TAU, 5.0) == Weighing(5.0) and Weighing(5.0).published
    assert weighing(SCORES, TAU, 5.0, scale=2.0) == Weighing(2.5)
    assert not weighing(SCORES, TAU, math.inf).published
    assert not weighing(SCORES, TAU, 5.0, normalised=True).published
    assert not weighing(SCORES, TAU, 5.0, balance=True).published


def test_of_a_large_confidence_infinity_is_the_limit() -> None:
    large = weighing(SCORES, TAU, 1e9, normalised=True).of(SCORES, TAU)
    endless = weighing(SCORES, TAU, math.inf, normalised=True).of(SCORES, TAU)
    assert large == pytest.approx(endless, abs=1e-7)


def test_the_unit_of_the_scores_drops_out() -> None:
    options = {"normalised": True, "balance": True}
    plain = weighing(SCORES, TAU, math.inf, **options).of(SCORES, TAU)
    scaled = weighing(1e6 * SCORES, 1e6 * TAU, math.inf, **options).of(1e6 * SCORES, 1e6 * TAU)
    assert scaled == pytest.approx(plain, rel=1e-12)


def test_json_gives_every_bit_back() -> None:
    for found in (weighing(SCORES, TAU, math.inf, balance=True), Weighing(0.1, 0.3, 0.7)):
        assert Weighing.parse(found.plain()) == found
    for plain in ({"confidence": -1.0}, {"confidence": 1.0, "positive": math.nan}):
        with pytest.raises(ValueError, match="weights of"):
            Weighing.parse({"positive": 1.0, "negative": 1.0, **plain})


def test_what_cannot_be_normalised_or_balanced_is_refused() -> None:
    with pytest.raises(ValueError, match="of all 101 samples sum to 0, which cannot be normalised"):
        weighing(SCORES, SCORES, math.inf, normalised=True)
    with pytest.raises(ValueError, match="others 0; choose another threshold, or balance = false"):
        weighing(SCORES, TAU * 0, 5.0, balance=True)
