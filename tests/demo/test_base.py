"""The shipped model is a plain diffusers folder that draws the digit it is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tglo import models
from tglo.demo import classifier, digits, scorer
from tglo.demo.pretrain import BASE, build_pipeline

PROMPTS = list(digits.PROMPTS) * 4


@pytest.fixture(scope="module")
def family() -> Any:
    return models.load(str(BASE))


@pytest.fixture(scope="module")
def images(family: Any) -> Any:
    return family.generate(
        PROMPTS, list(range(len(PROMPTS))), steps=12, guidance=1.5, batch_size=40
    )


def test_folder_is_small_and_free_of_pickles() -> None:
    files = [path for path in BASE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}


def test_generated_digits_are_the_ones_asked_for(images: Any) -> None:
    assert classifier.accuracy(images, PROMPTS) >= 0.85
    assert scorer.legibility(images, PROMPTS).mean() >= 0.75


def test_boldness_varies(images: Any) -> None:
    assert scorer.stroke_width(images).std() > 0.4


def test_plain_diffusers_loads_it() -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(BASE, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(i) for i in range(4)]
    prompts = list(digits.PROMPTS[:4])
    drawn = pipeline(prompts, num_inference_steps=8, guidance_scale=1.5, generator=generator).images
    assert classifier.judge(drawn).tolist() == [0, 1, 2, 3]


def test_architecture_matches_what_pretraining_builds() -> None:
    built = build_pipeline()
    shipped = models.load(str(BASE))
    assert {k: v.shape for k, v in built.unet.state_dict().items()} == {
        k: v.shape for k, v in shipped.denoiser.state_dict().items()
    }


def test_latents_have_unit_deviation(family: Any) -> None:
    data = digits.load(0, 30)
    pens = digits.random_pens(np.random.default_rng(0), len(data))
    ink = torch.from_numpy(data.draw(np.arange(len(data)), pens))
    mean, _ = family.latents((1 - 2 * ink).unsqueeze(1).repeat(1, 3, 1, 1))
    assert mean.shape == (len(data), 4, 8, 8)
    assert 0.85 < mean.std().item() < 1.15
