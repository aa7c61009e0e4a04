"""The measure of diversity on images whose distances are known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tglo.evaluate import diversity


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (32, 48)) -> Image.Image:
    return Image.new("RGB", size, colour)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
    ],
)
def test_lab_of_known_colours(rgb: tuple[int, ...], lab: tuple[float, ...]) -> None:
    assert diversity.to_lab(np.array(rgb, dtype=np.float64)) == pytest.approx(lab, abs=0.03)


def test_distance_of_known_images() -> None:
    black, white = (diversity.features(plain(colour)) for colour in ((0, 0, 0), (255, 255, 255)))
    assert diversity.mean_distance([black, white]) == pytest.approx(100, abs=1e-6)
    # Three pairs: one of 0 and two of 100.
    assert diversity.mean_distance([black, white, white]) == pytest.approx(200 / 3, abs=1e-6)
    assert diversity.mean_distance([white, white]) == 0
    half = plain((0, 0, 0))
    half.paste((255, 255, 255), (0, 0, 16, 48))
    assert diversity.mean_distance([black, diversity.features(half)]) == pytest.approx(
        100 / np.sqrt(2), abs=1e-6
    )


def test_one_image_has_no_diversity() -> None:
    with pytest.raises(ValueError, match="1 image has no pair; sample at least 2"):
        diversity.mean_distance([diversity.features(plain((1, 2, 3)))])
