from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tglo.rewards import SCORERS, load_scorer

RANDOM = np.random.default_rng(0)
WHITE, BLACK = (Image.new("RGB", (16, 16), name) for name in ("white", "black"))
RED = Image.new("RGB", (16, 16), (255, 0, 0))
NOISE = Image.fromarray(RANDOM.integers(0, 256, (16, 16, 3), dtype=np.uint8))
HALF = Image.fromarray(np.repeat([[0] * 8 + [255] * 8], 16, axis=0).astype(np.uint8)).convert("RGB")


def score(name: str, *images: Image.Image) -> np.ndarray:
    return np.asarray(load_scorer(name)(list(images), [""] * len(images)))


def test_ink_is_mean_darkness():
    assert score("ink", WHITE, HALF, BLACK).tolist() == [0, 0.5, 1]


def test_colourfulness_is_zero_for_grey():
    found = score("colourfulness", WHITE, HALF, RED, NOISE)
    assert found[:2].tolist() == [0, 0]
    assert found[2] == pytest.approx(0.3 * np.hypot(255, 127.5))
    assert found[3] > 50


def test_sharpness_is_zero_when_flat():
    found = score("sharpness", WHITE, HALF, NOISE)
    assert found[0] == 0 < found[1] < found[2]
    # columns 7 and 8 have a Laplacian of 255 and -255, the other fourteen none
    assert found[1] == pytest.approx(255**2 * 2 / 16)


def test_compressibility_prefers_plain_images():
    plain, noise = score("compressibility", WHITE, NOISE)
    assert noise < plain < 0


@pytest.mark.parametrize("name", sorted(SCORERS))
def test_scores_are_float64_and_of_each_image_alone(name):
    together = score(name, NOISE, HALF, RED)
    assert together.dtype == np.float64 and together.shape == (3,)
    assert [score(name, image)[0] for image in (NOISE, HALF, RED)] == together.tolist()
    grey = score(name, HALF.convert("L"))  # any mode
    assert grey[0] == pytest.approx(score(name, HALF)[0], rel=0.2, abs=1e-9)
