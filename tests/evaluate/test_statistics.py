"""Estimates against cases worked out by hand, and the coverage of their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from tglo.evaluate import statistics


def test_wins_are_paired_by_place_and_a_tie_is_half() -> None:
    scores = np.array([[1.0, 2.0], [3.0, 0.0], [5.0, 5.0]])
    others = np.array([[0.0, 2.0], [4.0, 1.0], [5.0, 4.0]])
    assert statistics.wins(scores, others).tolist() == [0.75, 0.0, 0.75]
    assert (statistics.wins(scores, others) + statistics.wins(others, scores) == 1).all()
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3, 1\)"):
        statistics.wins(scores, others[:, :1])


@pytest.mark.parametrize(
    ("won", "of", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)  # fmt: skip
def test_shares_have_wilsons_interval(won: int, of: int, low: float, high: float) -> None:
    """Table I of Newcombe (1998), Statistics in Medicine 17, 857: method 3, the score interval."""
    found = statistics.share(np.repeat([1.0, 0.0], [won, of - won]))
    assert found.value == won / of
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    lost = statistics.share(np.repeat([0.0, 1.0], [won, of - won]))
    assert (lost.low, lost.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_all_won_has_an_interval_and_parts_of_prompts_say_more() -> None:
    assert statistics.share(np.ones(64)) == statistics.Estimate(
        1.0, pytest.approx(0.94338, abs=1e-5), 1.0
    )
    halves = statistics.share(np.full(64, 0.5))  # ties, or half of each prompt's images
    coins = statistics.share(np.repeat([0.0, 1.0], 32))
    assert 0 < halves.high - halves.low < 0.3 * (coins.high - coins.low)
    nearly = statistics.share(np.r_[np.ones(63), 0.75])
    assert 0.93 < nearly.low < 0.945 and nearly.high < 1
    with pytest.raises(ValueError, match="not shares"):
        statistics.share(np.array([1.5]))
    with pytest.raises(ValueError, match="not shares"):
        statistics.share(np.array([np.nan, 0.5]))


def test_differences_are_paired() -> None:
    counts = statistics.resample(40, 400, seed=0)
    base = np.random.default_rng(0).normal(size=(40, 2)) * 100
    found = statistics.difference(base + np.array([1.0, 3.0]), base, counts)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))
    with pytest.raises(ValueError, match="no pairs"):
        statistics.difference(base, base[:, 0], counts)


def test_mean_of_given_resamples() -> None:
    counts = np.array([[2, 0], [1, 1], [0, 2]])
    found = statistics.mean(np.array([1.0, 3.0]), counts)  # resampled means 1, 2, 3
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 1.05, 2.95))


@pytest.mark.parametrize("shape", [(3, 1), (4, 1), (3, 2), (5, 3)])
def test_median_of_every_resample_is_numpys(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, size=shape).astype(np.float64)  # with ties
    counts = statistics.resample(shape[0], 200, seed=1)
    direct = [np.median(np.repeat(scores, row, axis=0)) for row in counts]
    found = statistics.median(scores, counts)
    assert found.value == np.median(scores)
    assert (found.low, found.high) == tuple(np.quantile(direct, [0.025, 0.975]))


def test_median_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).normal(size=(20, 3))
    counts = statistics.resample(20, 100, seed=1)
    whole = statistics.median(scores, counts)
    monkeypatch.setattr(statistics, "_CHUNK", 150)
    assert statistics.median(scores, counts) == whole


def test_resamples_are_seeded_and_draw_every_prompt_alike() -> None:
    counts = statistics.resample(7, 4000, seed=3)
    assert counts.shape == (4000, 7) and (counts.sum(axis=1) == 7).all()
    assert np.array_equal(counts, statistics.resample(7, 4000, seed=3))
    assert not np.array_equal(counts, statistics.resample(7, 4000, seed=4))
    assert counts.mean(axis=0) == pytest.approx(np.ones(7), abs=0.06)
    assert counts.var() == pytest.approx(6 / 7, rel=0.05)  # of a multinomial


@pytest.mark.parametrize(("prompts", "resamples"), [(1, 1000), (10, 99)])
def test_too_little_for_an_interval_is_refused(prompts: int, resamples: int) -> None:
    with pytest.raises(ValueError, match="needs at least 2 and 100"):
        statistics.resample(prompts, resamples, seed=0)


def test_intervals_cover_the_truth_where_images_of_a_prompt_are_alike() -> None:
    """60 prompts, 4 images each, most of the variance between prompts: an interval over images would
    cover the mean in about 70% of the cases.
    """
    rng = np.random.default_rng(0)
    truths = {"mean": 0.0, "median": 0.0, "wins": 0.5}
    covered = dict.fromkeys(truths, 0)
    trials = 300
    for trial in range(trials):
        prompt = rng.normal(size=(60, 1))
        scores = prompt + 0.5 * rng.normal(size=(60, 4))
        others = prompt + rng.normal(size=(60, 1)) + 0.5 * rng.normal(size=(60, 4))
        counts = statistics.resample(60, 400, seed=trial)
        found = {
            "mean": statistics.mean(scores.mean(axis=1), counts),
            "median": statistics.median(scores, counts),
            "wins": statistics.mean(statistics.wins(scores, others), counts),
        }
        for name, truth in truths.items():
            covered[name] += found[name].low <= truth <= found[name].high
    assert all(0.9 <= count / trials <= 0.985 for count in covered.values()), covered


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("ties", [0.0, 0.3])
def test_intervals_of_shares_cover_the_truth_up_to_the_edge(images: int, ties: float) -> None:
    """Prompts won with a probability of their own, 98% on the whole: of 1,000 evaluations of 20 prompts the
    bootstrap's intervals cover that in 32 to 82% where there are no ties.
    """
    rng, trials, mean = np.random.default_rng(0), 1000, 0.98
    odds = rng.beta(mean * 2, (1 - mean) * 2, size=(trials, 20, 1))
    won = (rng.random((trials, 20, images)) < odds).astype(np.float64)
    won[rng.random(won.shape) < ties] = 0.5
    truth = mean * (1 - ties) + 0.5 * ties
    found = [statistics.share(values) for values in won.mean(axis=2)]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.93
