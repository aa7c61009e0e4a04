from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.rewards.original_preprocessing import MEAN, STD, crop_of_shorter_side, letterboxed
from tests.rewards.published import images
from tglo.rewards.preprocessing import letterbox, pixel_batch, shorter_side_crop

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    "size", [(28, 28), (29, 28), (64, 41), (33, 90), (7, 5), (1, 28), (300, 9)]
)
def test_crops_equal_the_originals(size):
    image = Image.fromarray(RANDOM.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    for centre in ("nearest", "down"):
        found = (shorter_side_crop(image, 28, centre) - MEAN) / STD
        expected = crop_of_shorter_side(image, 28, floor=centre == "down")
        assert torch.equal(found, expected)


def test_an_odd_margin_is_halved_as_each_original_does():
    ramp = np.arange(31, dtype=np.uint8)[None, :, None].repeat(28, 0).repeat(3, 2)
    image = Image.fromarray(ramp)  # a margin of 3: 1.5 is 2, or 1
    assert shorter_side_crop(image, 28)[0, 0, 0] * 255 == 2
    assert shorter_side_crop(image, 28, "down")[0, 0, 0] * 255 == 1


@pytest.mark.parametrize("size", [(2, 700), (700, 2), (3, 1000)])
def test_a_long_thin_image_gives_the_same_crop_in_bounded_memory(size):
    coarse = RANDOM.integers(0, 256, (*(max(side // 50, 2) for side in size[::-1]), 3), np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)
    found = (shorter_side_crop(image, 28) - MEAN) / STD
    steps = (found - crop_of_shorter_side(image, 28)).abs() * STD * 255
    assert steps.max() < 1.5  # rounding of the crop's corner moves a pixel by one grey level
    assert shorter_side_crop(Image.new("RGB", (1, 60_000), "red"), 224).shape == (3, 224, 224)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(28, 28), (64, 41), (33, 90), (7, 5), (200, 31)])
def test_letterboxes_equal_the_original(size, antialias):
    image = Image.fromarray(RANDOM.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    found = (letterbox(image, 28, antialias=antialias) - MEAN) / STD
    assert found == pytest.approx(letterboxed(image, 28, antialias), abs=1e-4)


def test_a_letterbox_shows_the_whole_image_and_a_thin_one_a_line():
    boxed = letterbox(Image.new("RGB", (60, 30), "white"), 28)
    assert boxed[:, 7:21].min() > 0.99 and boxed[:, :7].max() == boxed[:, 21:].max() == 0
    line = letterbox(Image.new("RGB", (1, 3000), "white"), 28)
    assert line.shape == (3, 28, 28) and line.sum(dim=(1, 2)).tolist() == pytest.approx([28] * 3)
    wide = letterbox(Image.new("RGB", (28, 2), "white"), 28)  # the longer side fits already
    assert wide.shape == (3, 28, 28) and wide[:, 13:15].min() == 1


def test_other_modes_are_what_they_look_like():
    def one(image: Image.Image) -> torch.Tensor:
        return pixel_batch([image], lambda rgb: shorter_side_crop(rgb, 28))[0]

    red = one(Image.new("RGB", (40, 30), (255, 0, 0)))
    assert torch.equal(one(Image.new("RGBA", (40, 30), (255, 0, 0, 255))), red)
    assert torch.equal(one(Image.new("RGB", (40, 30), (255, 0, 0)).convert("P")), red)
    assert torch.equal(one(Image.new("CMYK", (40, 30), (0, 255, 255, 0))), red)
    white = one(Image.new("L", (40, 30), 255))
    assert torch.equal(one(Image.new("RGBA", (40, 30), (0, 0, 0, 0))), white)
    deep = Image.fromarray(np.full((30, 40), 65535, dtype=np.uint16))
    assert torch.equal(one(deep), white)


def test_a_batch_is_its_images():
    many = images(12)
    together = pixel_batch(many, lambda rgb: shorter_side_crop(rgb, 28))
    alone = [pixel_batch([image], lambda rgb: shorter_side_crop(rgb, 28))[0] for image in many]
    assert torch.equal(together, torch.stack(alone))
