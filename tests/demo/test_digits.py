"""The rendered digits: real shapes, a pen of the asked width, prompts that map back."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tglo.demo import digits


@pytest.fixture(scope="module")
def data() -> digits.Digits:
    return digits.load(0, 30)


def test_every_thirtieth_real_digit_is_drawn(data: digits.Digits) -> None:
    assert len(data) == 60
    assert set(data.labels) == set(range(10))
    ink = data.draw(np.arange(60), np.full(60, 2.0))
    assert ink.shape == (60, 32, 32) and ink.dtype == np.float32
    assert ink.min() >= 0.0 and ink.max() <= 1.0
    assert (ink.sum(axis=(1, 2)) > 20).all()  # no digit vanishes under a 2-pixel pen


def test_a_wider_pen_only_adds_ink(data: digits.Digits) -> None:
    rows = np.arange(len(data))
    thin, bold = (data.draw(rows, np.full(len(data), pen)) for pen in (1.5, 4.0))
    assert (bold >= thin - 1e-6).all()
    assert (bold.sum(axis=(1, 2)) > 1.5 * thin.sum(axis=(1, 2))).all()


def test_pens_stay_in_range_and_are_seeded() -> None:
    first, again = (digits.random_pens(np.random.default_rng(3), 2000) for _ in range(2))
    assert (first == again).all()
    assert first.min() >= digits.PENS[0] and first.max() <= digits.PENS[1]
    assert abs(first.mean() - 2.5) < 0.1 and abs(first.std() - 0.87) < 0.05


def test_images_round_trip_through_8_bits(data: digits.Digits) -> None:
    ink = data.draw(np.arange(8), np.full(8, 3.0))
    images = digits.to_images(ink)
    assert all(image.mode == "RGB" and image.size == (32, 32) for image in images)
    assert np.abs(digits.to_ink(images) - ink).max() <= 0.5 / 255 + 1e-6


def test_larger_images_are_reduced_to_the_drawing() -> None:
    page = Image.new("RGB", (64, 64), "white")
    page.paste((0, 0, 0), (0, 0, 64, 32))
    ink = digits.to_ink([page])
    assert ink.shape == (1, 32, 32)
    assert (ink[0, :16] == 1.0).all() and (ink[0, 16:] == 0.0).all()


def test_prompts_map_to_their_digit() -> None:
    assert digits.PROMPTS[7] == "a handwritten seven"
    assert digits.requested_digits(list(digits.PROMPTS)).tolist() == list(range(10))
    with pytest.raises(ValueError, match="'a cat'.*scorer of your own"):
        digits.requested_digits(["a handwritten one", "a cat"])
