"""The shipped models are plain diffusers folders that draw the digit they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from examples.pretraining.digits import (
    build_flow_pipeline,
    build_masked_pipeline,
    build_pipeline,
)
from tglo import models
from tglo.demo import classifier, digits, scorer
from tglo.demo.settings import DIFFUSION, FLOW, MASKED, MODELS, DemoModel

PROMPTS = list(digits.PROMPTS) * 4


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest) -> DemoModel:
    return MODELS[request.param]


@pytest.fixture(scope="module")
def images(model: DemoModel) -> Any:
    return models.load(str(model.base)).generate(
        PROMPTS,
        list(range(len(PROMPTS))),
        model.sampling(12),
        batch_size=40,
    )


def test_folder_is_small_and_free_of_pickles(model: DemoModel) -> None:
    files = [path for path in model.base.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 9e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}


def test_generated_digits_are_the_ones_asked_for(images: Any) -> None:
    assert classifier.accuracy(images, PROMPTS) >= 0.85
    assert scorer.legibility(images, PROMPTS).mean() >= 0.75


def test_boldness_varies(images: Any) -> None:
    assert scorer.stroke_width(images).std() > 0.4


def test_plain_diffusers_loads_it() -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(DIFFUSION.base, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(i) for i in range(4)]
    prompts = list(digits.PROMPTS[:4])
    drawn = pipeline(prompts, num_inference_steps=8, guidance_scale=1.5, generator=generator).images
    assert classifier.judge(drawn).tolist() == [0, 1, 2, 3]


def test_plain_diffusers_loads_the_masked_model() -> None:
    from diffusers import AmusedPipeline

    pipeline = AmusedPipeline.from_pretrained(MASKED.base, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    prompts = list(digits.PROMPTS) * 2
    drawn = pipeline(
        prompts,
        num_inference_steps=12,
        guidance_scale=MASKED.guidance,
        temperature=(MASKED.choice_temperature, 0),
        generator=torch.Generator().manual_seed(0),
    ).images
    assert classifier.accuracy(drawn, prompts) >= 0.8


def test_plain_diffusers_draws_the_flow_models_images() -> None:
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(
        FLOW.base, dtype=torch.float32, local_files_only=True
    )  # stored in half precision
    pipeline.set_progress_bar_config(disable=True)
    prompts = list(digits.PROMPTS)
    family = models.load(str(FLOW.base))
    ours = family.generate(prompts, range(10), FLOW.sampling(8))
    shape = family.latent_shape(digits.SIZE, digits.SIZE)
    noise = torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(10)]
    )
    theirs = pipeline(
        prompts,
        latents=pipeline._pack_latents(noise, *noise.shape),
        height=digits.SIZE,
        width=digits.SIZE,
        num_inference_steps=8,
        max_sequence_length=pipeline.tokenizer_2.model_max_length,
    ).images
    for mine, other in zip(ours, theirs, strict=True):
        assert np.abs(np.asarray(mine).astype(int) - np.asarray(other)).max() <= 1
    assert classifier.accuracy(theirs, prompts) >= 0.8


@pytest.mark.parametrize(
    ("build", "part", "shipped"),
    [
        (build_pipeline, "unet", DIFFUSION),
        (build_masked_pipeline, "transformer", MASKED),
        (build_flow_pipeline, "transformer", FLOW),
    ],
    ids=list(MODELS),
)
def test_architecture_matches_what_pretraining_builds(
    build: Any, part: str, shipped: DemoModel
) -> None:
    denoiser = models.load(str(shipped.base)).denoiser
    assert {k: v.shape for k, v in getattr(build(), part).state_dict().items()} == {
        k: v.shape for k, v in denoiser.state_dict().items()
    }


def test_latents_have_unit_deviation() -> None:
    data = digits.load(0, 30)
    pens = digits.random_pens(np.random.default_rng(0), len(data))
    ink = torch.from_numpy(data.draw(np.arange(len(data)), pens))
    family: Any = models.load(str(DIFFUSION.base))
    mean = family.encode((1 - 2 * ink).unsqueeze(1).repeat(1, 3, 1, 1))["mean"]
    assert mean.shape == (len(data), 4, 8, 8)
    assert 0.85 < mean.std().item() < 1.15
