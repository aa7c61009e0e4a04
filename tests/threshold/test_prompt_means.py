from __future__ import annotations

import numpy as np
import pytest

from tglo.coded import numbered
from tglo.threshold.prompt_means import shrunk_means


def planted(
    random: np.random.Generator, counts: np.ndarray, between: float, within: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of prompts with means of that standard deviation around 3, and the prompts' numbers."""
    numbers = np.repeat(np.arange(len(counts)), counts)
    means = 3 + between * random.normal(size=len(counts))
    return means[numbers] + within * random.normal(size=len(numbers)), numbers


def by_hand(values: np.ndarray, numbers: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """m, tau(x) and B_x by the formulas of the module, prompt by prompt."""
    groups = [values[numbers == x] for x in range(numbers.max() + 1)]
    n = np.array([len(group) for group in groups], dtype=float)
    means = np.array([group.mean() for group in groups])
    rest = sum(((group - group.mean()) ** 2).sum() for group in groups)
    within = rest / (len(values) - len(groups))
    between = max(0.0, means.var(ddof=1) - within * (1 / n).mean())
    factor = between / (between + within / n)
    weight = 1 / (between + within / n)
    middle = (weight * means).sum() / weight.sum()
    return middle, middle + factor * (means - middle), factor


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e150])
def test_the_formulas(offset: float, scale: float) -> None:
    random = np.random.default_rng(0)
    values, numbers = planted(random, random.integers(1, 6, size=40), 0.7, 1.3)
    middle, thresholds, factor = by_hand(values, numbers)
    found = shrunk_means((values + offset) * scale, numbers)
    error = 1e-9 if offset else 1e-12
    assert found.value / scale - offset == pytest.approx(middle, abs=error)
    assert found.thresholds / scale - offset == pytest.approx(thresholds, abs=error)
    fit = found.fit
    ends = factor.mean(), factor.min(), factor.max()
    assert (fit.factor, fit.factor_least, fit.factor_most) == pytest.approx(ends, rel=1e-8)
    assert (fit.prompts, fit.several) == (40, int((np.bincount(numbers) > 1).sum()))


def test_with_equal_numbers_the_middle_is_the_mean_of_all_scores_and_b_is_the_papers() -> None:
    values, numbers = planted(np.random.default_rng(1), np.full(50, 4), 1.0, 1.0)
    found = shrunk_means(values, numbers)
    assert found.value == pytest.approx(values.mean(), rel=1e-13)
    table = values.reshape(50, 4)
    within = table.var(axis=1, ddof=1).mean()
    between = table.mean(axis=1).var(ddof=1) - within / 4
    assert found.fit.factor == pytest.approx(between / (between + within / 4), rel=1e-12)
    assert found.fit.explained == pytest.approx(between / (between + within), rel=1e-12)


def test_both_sides_pull_equally_whatever_the_numbers_of_images() -> None:
    random = np.random.default_rng(2)
    values, numbers = planted(random, random.integers(1, 9, size=200), 1.0, 2.0)
    values = np.exp(values)  # skewed
    rest = values - shrunk_means(values, numbers).thresholds[numbers]
    assert rest.sum() == pytest.approx(0, abs=1e-9 * np.abs(rest).sum())
    assert (values - np.median(values)).sum() > 0.3 * np.abs(values - np.median(values)).sum()


@pytest.mark.parametrize(("between", "within"), [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (3.0, 0.5)])
def test_planted_variances_come_back_within_their_standard_error(
    between: float, within: float
) -> None:
    random, repeats, prompts, images = np.random.default_rng(3), 200, 200, 4
    counts = np.full(prompts, images)
    fits = [shrunk_means(*planted(random, counts, between, within)).fit for _ in range(repeats)]
    squares = np.array([(fit.within**2, fit.between**2) for fit in fits])
    noise = within**2 / images
    errors = np.array(
        [
            within**2 * np.sqrt(2 / (prompts * (images - 1))),
            np.sqrt(2 * (between**2 + noise) ** 2 / (prompts - 1)
                    + 2 * noise**2 / (prompts * (images - 1))),
        ]
    )  # fmt: skip
    # An estimate that is cut off at 0 is too large there on average: 0.4 of its error.
    bias = np.array([0.0, 0.0 if between else 0.4 * errors[1]])
    assert squares.mean(axis=0) - bias == pytest.approx(
        (within**2, between**2), abs=3 * errors.max() / np.sqrt(repeats)
    )
    if between:
        assert squares.std(axis=0) == pytest.approx(errors, rel=0.2)
    # A single estimate lies within two standard errors in 95 of 100 data sets.
    near = np.abs(squares - (within**2, between**2)) < 2 * errors
    assert (near.mean(axis=0) > 0.9).all()
    factor = between**2 / (between**2 + noise)
    assert np.mean([fit.factor for fit in fits]) == pytest.approx(
        factor, abs=0.02 if between else 0.1
    )


def test_planted_variances_come_back_from_unequal_numbers() -> None:
    random = np.random.default_rng(4)
    counts = np.where(np.arange(300) % 3, 1, 6)
    fits = [shrunk_means(*planted(random, counts, 0.8, 1.2)).fit for _ in range(100)]
    squares = np.array([(fit.within**2, fit.between**2) for fit in fits])
    error = squares.std(axis=0) / 10
    assert (np.abs(squares.mean(axis=0) - (1.2**2, 0.8**2)) < 3 * error).all()


def test_shrunk_means_are_nearer_to_the_truth_than_the_means_and_than_the_mean_of_all() -> None:
    random = np.random.default_rng(5)
    true = 0.6 * random.normal(size=500)
    values = (true[:, None] + random.normal(size=(500, 3))).reshape(-1)
    found = shrunk_means(values, np.repeat(np.arange(500), 3)).thresholds
    means = values.reshape(500, 3).mean(axis=1)
    errors = [np.square(guess - true).mean() for guess in (found, means, values.mean())]
    assert errors[0] < 0.75 * min(errors[1:])


def test_prompts_with_equal_means_get_the_mean_of_all() -> None:
    found = shrunk_means(np.array([1.0, 3.0, 0.0, 4.0, 2.0, 2.0]), np.array([0, 0, 1, 1, 2, 2]))
    assert found.thresholds.tolist() == [2.0, 2.0, 2.0] and found.fit.factor == 0.0
    assert "no more than chance" in found.fit.notes()[0]


def test_one_prompt_has_its_mean() -> None:
    found = shrunk_means(np.array([1.0, 2.0, 6.0]), np.zeros(3, dtype=np.int64))
    assert found.thresholds.tolist() == [3.0] and found.value == 3.0


def test_prompts_whose_scores_are_all_equal_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"each of the 3 prompts are all equal \(B = 1\).*baseline mean"
    ):
        shrunk_means(np.array([0.1, 0.1, 0.1, 0.7, 0.3]), np.array([0, 0, 0, 1, 2]))


def test_outliers_are_told_with_what_they_change() -> None:
    random = np.random.default_rng(6)
    values, numbers = planted(random, np.full(100, 4), 1.0, 1.0)
    clean = shrunk_means(values, numbers).fit
    assert clean.outliers == 0 and not clean.warnings()
    values[[5, 77]] = 1e6, -3e6
    fit = shrunk_means(values, numbers).fit
    assert fit.outliers == 2 and fit.factor < 0.1
    assert fit.factor_without == pytest.approx(clean.factor, abs=0.03)
    assert "more than 10 robust standard deviations from the median: 2. Means" in fit.warnings()[-1]


def test_prompts_are_numbered_as_they_come() -> None:
    names, numbers = numbered(["b", "a", "b", "c", "a"])
    assert names == ["b", "a", "c"] and numbers.tolist() == [0, 1, 0, 2, 1]
