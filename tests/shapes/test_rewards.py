"""Drawings show what was asked for; each reward likes what it says it likes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tglo.shapes import drawing, reader, rewards, scenes
from tglo.shapes.drawing import Layout
from tglo.shapes.scenes import Scene, Thing

SCENE = Scene("vertical", Thing("large", "red", "square"), Thing("small", "blue", "circle"))
PROMPT = scenes.plain(SCENE)[0]


def drawn(count: int, *, held_out: bool = False) -> tuple[list[Image.Image], list[str]]:
    generator = np.random.default_rng(7)
    known = scenes.all_scenes(held_out=held_out)
    chosen = [known[i] for i in generator.integers(len(known), size=count)]
    pictures = drawing.draw(chosen, drawing.random_layout(chosen, generator))
    return drawing.to_images(pictures), [scenes.plain(scene)[0] for scene in chosen]


def layout(**changes: object) -> Layout:
    plain = Layout(
        centres=np.array([[[16, 8], [16, 24]]], np.float32),
        radii=np.array([[6, 3.5]], np.float32),
        vividness=np.array([1], np.float32),
        paper=np.array([0.9], np.float32),
        stripes=np.zeros((1, 3), np.float32),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def picture(made: Layout) -> list[Image.Image]:
    return drawing.to_images(drawing.draw([SCENE], made))


def test_drawing_by_hand() -> None:
    pixels = drawing.draw([SCENE], layout())[0]
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[8, 16], [0.90, 0.10, 0.12], atol=1e-6)  # row, column
    np.testing.assert_allclose(pixels[24, 16], [0.12, 0.28, 0.92], atol=1e-6)
    np.testing.assert_allclose(pixels[0, 0], 0.9, atol=1e-6)
    red = (pixels[..., 0] > 0.85) & (pixels[..., 1] < 0.2)
    assert 0.8 < red.sum() / (2 * 0.9 * 6) ** 2 < 1.05  # the square's area


def test_layouts_keep_things_in_their_places() -> None:
    generator = np.random.default_rng(0)
    known = scenes.all_scenes(held_out=False)
    chosen = [known[i] for i in generator.integers(len(known), size=400)]
    made = drawing.random_layout(chosen, generator)
    low, high = made.centres - made.radii[..., None], made.centres + made.radii[..., None]
    assert low.min() > 0 and high.max() < drawing.SIZE
    for scene, (first, second) in zip(chosen, made.centres, strict=True):
        along = 1 if scene.axis == "vertical" else 0
        assert first[along] + 10 < second[along]


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("name", ["reader", "judge"])
def test_reader_and_judge_read_true_drawings(name: str, held_out: bool) -> None:
    images, prompts = drawn(300, held_out=held_out)
    right = reader.agreement(images, prompts, name) > 0.5
    assert right.mean() > 0.97 and right.all(axis=1).mean() > 0.85


def test_faithfulness_falls_with_every_wrong_word() -> None:
    images, prompts = drawn(200)
    found = [scenes.parse(prompt) for prompt in prompts]
    one_wrong = [
        replace(s, first=replace(s.first, colour=scenes.COLOURS[(s.codes()[2] + 1) % 6]))
        for s in found
    ]
    all_wrong = [known for known in scenes.all_scenes(held_out=True)[:200]]
    means = [
        rewards.faithfulness(images, [scenes.plain(s)[0] for s in asked]).mean()
        for asked in (found, one_wrong, all_wrong)
    ]
    assert means[0] > 0.95 and means[0] - means[1] == pytest.approx(1 / 7, abs=0.03)
    assert means[2] < 0.5
    swapped = [Scene(s.axis, s.second, s.first) for s in found]
    assert rewards.accuracy(images, [scenes.plain(s)[0] for s in swapped]).mean() < 0.05


def test_what_is_no_scene_is_not_faithful() -> None:
    grey = Image.new("RGB", (32, 32), (200, 200, 200))
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    two = Image.blend(*drawn(2)[0], 0.5)
    for image in (grey, Image.fromarray(noise), two):
        assert rewards.faithfulness([image], [PROMPT])[0] < 0.5
        assert rewards.accuracy([image], [PROMPT])[0] == 0


def test_vividness_grows_with_saturation() -> None:
    vivid = [
        rewards.vividness(picture(layout(vividness=np.array([v], np.float32))), [PROMPT])[0]
        for v in (0.3, 0.6, 1.0)
    ]
    assert vivid[0] + 5 < vivid[1] and vivid[1] + 5 < vivid[2]


def test_symmetry_is_highest_in_the_middle() -> None:
    centred = rewards.symmetry(picture(layout()), [PROMPT])[0]
    off = layout(centres=np.array([[[11, 8], [21, 24]]], np.float32))
    assert centred == pytest.approx(0, abs=1e-3)
    assert rewards.symmetry(picture(off), [PROMPT])[0] < -0.03


def test_compressibility_dislikes_stripes() -> None:
    plain = rewards.compressibility(picture(layout()), [PROMPT])[0]
    stripes = layout(stripes=np.array([[0.16, 0.7, 0.5]], np.float32))
    assert rewards.compressibility(picture(stripes), [PROMPT])[0] < plain - 0.05


def test_stars_are_whole_repeatable_and_err_as_stated() -> None:
    images, prompts = drawn(400)
    stars = rewards.stars(images, prompts)
    assert set(stars) <= {1.0, 2.0, 3.0, 4.0, 5.0} and len(set(stars)) >= 3
    np.testing.assert_array_equal(stars, rewards.stars(images, prompts))
    sure, unsure = (rewards.rate(images, prompts, error) for error in (0.0, 3.0))
    assert np.abs(stars - sure).mean() < np.abs(unsure - sure).mean()
    assert np.corrcoef(stars, sure)[0, 1] > 0.4
    assert rewards.stars(images, prompts[1:] + prompts[:1]).mean() < stars.mean() - 0.5


@pytest.mark.parametrize("name", [*rewards.NAMES, "accuracy"])
def test_rewards_do_not_depend_on_the_batch_or_the_size(name: str) -> None:
    reward = getattr(rewards, name)
    images, prompts = drawn(12)
    together = reward(images, prompts)
    assert together.shape == (12,) and together.dtype == np.float64
    alone = [reward([i], [p])[0] for i, p in zip(images, prompts, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    if name not in ("compressibility", "stars"):  # a file's size, and an error, are the image's own
        larger = [image.resize((64, 64), Image.Resampling.NEAREST) for image in images]
        np.testing.assert_allclose(reward(larger, prompts), together, rtol=1e-5, atol=1e-7)
    assert reward([], []).shape == (0,)


def test_bad_input_is_refused() -> None:
    for name in (*rewards.NAMES, "accuracy"):
        with pytest.raises(ValueError, match="1 images and 0 prompts"):
            getattr(rewards, name)([Image.new("RGB", (32, 32))], [])
    with pytest.raises(ValueError, match="does not ask for a scene"):
        rewards.stars([Image.new("RGB", (32, 32))], ["a dog"])
