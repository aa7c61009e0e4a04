from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Plain

from tglo.threshold import ridge as module
from tglo.threshold.ridge import GRID, ridge


def planted(seed: int, prompts: int, width: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    embeddings = random.normal(size=(prompts, width)) * np.linspace(3, 0.1, width) + 5
    slopes = random.normal(size=width) / np.sqrt(width)
    return 2 + embeddings @ slopes + noise * random.normal(size=prompts), embeddings


@pytest.mark.parametrize("width", [5, 30, 100])
def test_each_prediction_is_that_of_a_fit_to_the_others(width: int) -> None:
    scores, embeddings = planted(0, 30, width, 1.0)
    found = ridge(scores, embeddings)
    centred = embeddings - embeddings.mean(axis=0)
    strength = found.strength * np.square(centred).sum() / min(centred.shape)
    others = [np.delete(np.arange(30), i) for i in range(30)]
    by_hand = [
        Plain(alpha=strength, solver="svd").fit(embeddings[rest], scores[rest]).predict(embeddings[[i]])[0]
        for i, rest in enumerate(others)
    ]  # fmt: skip
    assert found.predictions == pytest.approx(by_hand, rel=1e-8)
    base = sum((scores[i] - scores[rest].mean()) ** 2 for i, rest in enumerate(others))
    explained = 1 - np.square(scores - by_hand).sum() / base
    assert found.explained == pytest.approx(explained, rel=1e-8)


def test_the_strength_is_the_best_of_the_grid() -> None:
    scores, embeddings = planted(1, 40, 20, 2.0)
    found, grid = ridge(scores, embeddings), GRID
    errors = []
    for strength in grid:
        module.GRID = np.array([strength])
        try:
            errors.append(np.square(ridge(scores, embeddings).predictions - scores).sum())
        finally:
            module.GRID = grid
    assert found.strength == grid[int(np.argmin(errors))]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, embeddings = planted(2, 50, 8, 1.0)
    whole = ridge(scores, embeddings)
    monkeypatch.setattr(module, "BLOCK", 7)
    assert ridge(scores, embeddings).predictions == pytest.approx(whole.predictions, rel=1e-12)


def test_an_offset_and_a_scale_change_nothing() -> None:
    scores, embeddings = planted(3, 50, 8, 1.0)
    plain, moved = ridge(scores, embeddings), ridge(1e8 * scores + 1e6, 1e-3 * embeddings + 1)
    assert moved.predictions == pytest.approx(1e8 * plain.predictions + 1e6, rel=1e-8)
    assert moved.explained == pytest.approx(plain.explained, rel=1e-8)


def test_it_beats_the_mean_of_all_where_there_is_something_to_learn() -> None:
    random = np.random.default_rng(4)
    embeddings = random.normal(size=(256, 64)).astype(np.float32)
    true = embeddings @ random.normal(size=64) / 8
    scores = true + random.normal(size=256)
    found = ridge(scores, embeddings)
    assert found.explained > 2 * found.error
    error, base = (np.square(guess - true).mean() for guess in (found.predictions, scores.mean()))
    assert error < 0.5 * base
    assert found.explained == pytest.approx(
        0.5, abs=0.15
    )  # the share of the signal, less what fitting costs


@pytest.mark.parametrize("width", [16, 64, 512])
def test_noise_is_hardly_ever_taken_for_more(width: int) -> None:
    random = np.random.default_rng(5)
    found = [ridge(random.normal(size=128), random.normal(size=(128, width))) for _ in range(100)]
    assert sum(fit.explained > 2 * fit.error for fit in found) <= 5


@pytest.mark.parametrize(
    ("count", "embeddings", "message"),
    [
        (20, np.ones((19, 3)), r"must have shape \(20, D\), got \(19, 3\)"),
        (20, np.ones(20), r"must have shape \(20, D\), got \(20,\)"),
        (20, np.ones((20, 3)), "are all equal"),
        (20, np.full((20, 3), np.nan), "not all finite"),
        (20, np.full((20, 30), np.inf), "not all finite"),
        (7, np.ones((7, 3)), "needs 8 prompts or more, got 7"),
    ],
)
def test_what_it_refuses(count: int, embeddings: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ridge(np.arange(float(count)), embeddings)
