from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    PNDMScheduler,
)

from tests.models.helpers import perturb
from tglo import models
from tglo.models.execution.modes import frozen_copy
from tglo.settings import SamplingOptions

PROMPTS = ["a seven", "a two", "a seven", ""]
SEEDS = [3, 4, 5, 3]


def pixels(images: list) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


def by_pipeline(pipeline: DiffusionPipeline, **options: object) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    return pixels(pipeline(PROMPTS, generator=generators, **options).images)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_images_are_the_pipelines(
    kind: str, family: models.Family, folders: dict[str, Path], guidance: float
) -> None:
    pipeline = DiffusionPipeline.from_pretrained(folders[kind])
    expected = by_pipeline(
        pipeline, num_inference_steps=3, guidance_scale=guidance, height=16, width=24
    )
    images = family.generate(
        PROMPTS,
        SEEDS,
        SamplingOptions(steps=3, guidance=guidance, height=16, width=24),
        batch_size=4,
    )
    assert expected.shape == (4, 16, 24, 3)
    assert np.abs(pixels(images) - expected).max() <= 1
    assert len({image.tobytes() for image in images}) == 4


@pytest.mark.parametrize(
    "scheduler", [PNDMScheduler, DDPMScheduler, EulerAncestralDiscreteScheduler]
)
def test_images_do_not_depend_on_the_batch(
    load: Callable[..., models.Family], folders: dict[str, Path], scheduler: type
) -> None:
    """Also with schedulers that keep a state or draw noise in each step."""
    family = load("sd15")
    family.scheduler = scheduler.from_config(family.scheduler.config)
    images = [
        pixels(family.generate(PROMPTS, SEEDS, SamplingOptions(4), batch_size=size))
        for size in (1, 3, 8)
    ]
    for other in images[1:]:
        assert np.abs(images[0] - other).max() <= 1
    alone = family.generate([PROMPTS[2]], [SEEDS[2]], SamplingOptions(4))
    assert np.abs(pixels(alone)[0] - images[0][2]).max() <= 1
    pipeline = DiffusionPipeline.from_pretrained(folders["sd15"])
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    expected = by_pipeline(pipeline, num_inference_steps=4, guidance_scale=5.0)
    assert np.abs(images[0] - expected).max() <= 1


def test_generation_is_deterministic_and_leaves_the_global_generator(
    load: Callable[..., models.Family],
) -> None:
    family = load("sdxl")
    state = torch.get_rng_state()
    first = family.generate(PROMPTS, SEEDS, SamplingOptions(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == family.generate(PROMPTS, SEEDS, SamplingOptions(2))
    assert first[0].size == (16, 16) and first[0].mode == "RGB"


def test_another_denoiser_can_be_sampled_and_modes_are_restored(
    load: Callable[..., models.Family],
) -> None:
    family = load("sd15")
    average = frozen_copy(family.denoiser).train()
    average.conv_in.eval()
    family.denoiser.train()
    expected = family.generate(PROMPTS, SEEDS, SamplingOptions(2))
    perturb(family.denoiser, scale=0.5)
    assert family.generate(PROMPTS, SEEDS, SamplingOptions(2), denoiser=average) == expected
    assert family.generate(PROMPTS, SEEDS, SamplingOptions(2)) != expected
    assert average.training and not average.conv_in.training and family.denoiser.training
    with pytest.raises(ZeroDivisionError):
        family.generate(PROMPTS, SEEDS, SamplingOptions(2), denoiser=lambda *a, **k: 1 / 0)
    family.call = lambda *a: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        family.generate(PROMPTS, SEEDS, SamplingOptions(2))
    assert family.denoiser.training


def test_distinct_prompts_are_encoded_once(
    load: Callable[..., models.Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = load("sd15")
    encoded: list[str] = []
    text = family.text
    monkeypatch.setattr(family, "text", lambda prompts: (encoded.extend(prompts), text(prompts))[1])
    family.generate(["a", "b"] * 6, range(12), SamplingOptions(1), batch_size=3)
    assert sorted(encoded) == ["", "a", "b"]


def test_half_precision_gives_nearly_the_same_images(load: Callable[..., models.Family]) -> None:
    full, half = load("sdxl"), load("sdxl", dtype=torch.bfloat16)
    images = [pixels(f.generate(PROMPTS, SEEDS, SamplingOptions(3, 2.0))) for f in (full, half)]
    assert np.abs(images[0] - images[1]).mean() < 3


def test_progress_bar_is_optional(
    load: Callable[..., models.Family],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = load("sd15")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # bars are for terminals
    monkeypatch.delenv("TQDM_DISABLE", raising=False)  # which the command line sets
    capsys.readouterr()
    family.generate(["a"], [0], SamplingOptions(1))
    assert capsys.readouterr().err == ""
    family.generate(["a"], [0], SamplingOptions(1), progress=True)
    assert "images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [1]}, "one length, not 4 and 1"),
        ({"prompts": "text"}, "one length, not 'text'"),
        ({"steps": 0}, "steps 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"height": 17}, "height 17"),
    ],
)
def test_bad_input_is_named(
    load: Callable[..., models.Family], options: dict, message: str
) -> None:
    arguments = {"prompts": PROMPTS, "seeds": SEEDS} | options
    rest = {
        name: arguments.pop(name) for name in ("prompts", "seeds", "batch_size") & arguments.keys()
    }
    with pytest.raises(ValueError, match=message):
        load("sd15").generate(options=SamplingOptions(**{"steps": 1} | arguments), **rest)


def test_no_prompts_no_images(load: Callable[..., models.Family]) -> None:
    assert load("sd15").generate([], []) == []
