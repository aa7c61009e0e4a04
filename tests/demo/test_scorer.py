"""The reward: bold and legible is high; thin, wrong, blank and blotted are low."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tglo.demo import classifier, digits, scorer


@pytest.fixture(scope="module")
def unseen() -> digits.Digits:
    """Real digits of the half that the reader was not fitted on."""
    return digits.load(1, 8)


def drawn(data: digits.Digits, pen: float) -> tuple[list[Image.Image], list[str]]:
    rows = np.arange(len(data))
    return digits.to_images(data.draw(rows, np.full(len(data), pen))), data.prompts(rows)


def test_scores_are_float64_one_per_image(unseen: digits.Digits) -> None:
    scores = scorer.score(*drawn(unseen, 2.0))
    assert scores.shape == (len(unseen),) and scores.dtype == np.float64
    assert np.isfinite(scores).all() and (scores >= 0).all()


def test_score_does_not_depend_on_the_batch(unseen: digits.Digits) -> None:
    images, prompts = drawn(unseen, 2.0)
    together = scorer.score(images[:9], prompts[:9])
    alone = np.concatenate(
        [scorer.score([i], [p]) for i, p in zip(images[:9], prompts[:9], strict=True)]
    )
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_bolder_legible_strokes_score_higher(unseen: digits.Digits) -> None:
    means = [scorer.score(*drawn(unseen, pen)).mean() for pen in (1.2, 2.0, 3.0, 4.0, 4.6)]
    assert (np.diff(means) > 0.2).all()


def test_blots_and_blank_pages_score_low(unseen: digits.Digits) -> None:
    blots, prompts = drawn(unseen, 11.0)
    bold, _ = drawn(unseen, 4.0)
    assert scorer.score(blots, prompts).mean() < 0.1 * scorer.score(bold, prompts).mean()
    blank = Image.new("RGB", (32, 32), "white")
    assert scorer.score([blank], ["a handwritten one"]).tolist() == [0.0]


def test_the_wrong_digit_scores_low(unseen: digits.Digits) -> None:
    images, prompts = drawn(unseen, 3.0)
    others = [digits.PROMPTS[(digits.PROMPTS.index(prompt) + 1) % 10] for prompt in prompts]
    assert scorer.score(images, others).mean() < 0.1 * scorer.score(images, prompts).mean()


def test_legibility_holds_on_unseen_digits(unseen: digits.Digits) -> None:
    assert scorer.legibility(*drawn(unseen, 2.5)).mean() > 0.9


def test_stroke_width_is_that_of_a_bar() -> None:
    page = np.zeros((1, 32, 32))
    page[0, 4:28, 10:14] = 1.0  # 24 x 4 pixels: outline 56, area 96
    width = scorer.stroke_width(digits.to_images(page))
    assert width[0] == pytest.approx(2 * 96 / 56, rel=0.02)


def test_images_and_prompts_must_match_in_number() -> None:
    with pytest.raises(ValueError, match="1 images and 0 prompts"):
        scorer.score([Image.new("RGB", (32, 32))], [])
    assert scorer.score([], []).shape == (0,)


def test_the_judge_reads_digits_it_was_not_fitted_on() -> None:
    data = digits.load(0, 8)  # the judge was fitted on the odd rows
    assert classifier.accuracy(*drawn(data, 2.5)) > 0.93
