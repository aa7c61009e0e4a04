from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import nn

from tests import tiny
from tests.models.helpers import example
from tglo import models
from tglo.models.execution.modes import frozen_copy
from tglo.noise.draw import Draw
from tglo.settings import SamplingOptions


@pytest.fixture(scope="module")
def pipelines(folders: dict[str, Path]) -> dict[str, DiffusionPipeline]:
    return {name: DiffusionPipeline.from_pretrained(path) for name, path in folders.items()}


def test_loads_the_right_family(load: Callable[..., models.Family]) -> None:
    expected = {
        "sd15": (models.StableDiffusion, "epsilon"),
        "sd2": (models.StableDiffusion, "v_prediction"),
        "sdxl": (models.StableDiffusionXL, "epsilon"),
    }
    for kind, (family, prediction_type) in expected.items():
        model = load(kind)
        assert type(model) is family
        assert model.schedule.prediction_type == prediction_type
        assert model.latent_shape(16, 24) == (4, 8, 12)
        assert (model.spatial_scale, model.patch, model.bucket_step) == (2, 2, 4)
        assert model.default_size == (16, 16)
        assert not model.denoiser.training and not model.vae.training


def test_default_temperature_is_the_papers_for_the_papers_model(
    load: Callable[..., models.Family],
) -> None:
    family = load("sd15")
    for side, expected in ((64, 1e-3), (128, 2.5e-4), (8, 0.064)):
        family.denoiser.register_to_config(sample_size=side)
        assert family.default_temperature == pytest.approx(expected)


def test_text_equals_the_pipelines(
    kind: str, family: models.Family, pipelines: dict[str, DiffusionPipeline]
) -> None:
    prompts = ["a handwritten seven", "", "x" * 200, "Zürich 7️⃣"]
    text = family.text(prompts)
    encoded = pipelines[kind].encode_prompt(
        prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    assert torch.equal(text["prompt_embeds"], encoded[0])
    empty = family.unconditional()
    assert torch.equal(empty["prompt_embeds"][0], encoded[1][0])
    if kind == "sdxl":
        assert torch.equal(text["pooled_prompt_embeds"], encoded[2])
        assert torch.equal(empty["pooled_prompt_embeds"][0], encoded[3][0])
        assert not empty["prompt_embeds"].any()


def test_sdxl_without_forced_zeros_starts_from_the_empty_prompt(
    load: Callable[..., models.Family],
) -> None:
    family = load("sdxl")
    family.pipeline_config["force_zeros_for_empty_prompt"] = False
    for name, tensor in family.unconditional().items():
        assert torch.equal(tensor, family.text([""])[name]) and tensor.any()


def test_long_and_equal_prompts_are_reported_in_a_line_each(
    load: Callable[..., models.Family], caplog: pytest.LogCaptureFixture
) -> None:
    family = load("sdxl")
    with caplog.at_level(logging.WARNING, logger="tglo"):
        family.text(["short", "x" * 76, "x" * 75])
        family.text(["y" * 300, "SHORT", "x" * 76])
        family.text(["short", "y" * 301])
        assert not caplog.records
        family.prompts.report()
    assert family.truncated_prompts == 3
    assert [record.message for record in caplog.records] == [
        "3 of 6 prompts are longer than 77 tokens and were cut there; "
        'long_prompts = "chunks" with enough prompt_chunks keeps them whole',
        "2 of 6 prompts have the same tokens as another one, so the model cannot tell them from it; "
        "the first is 'SHORT'",
    ]


def test_predict_equals_the_unet_call(
    kind: str, family: models.Family, pipelines: dict[str, DiffusionPipeline]
) -> None:
    draw = example(family)
    text = family.text(["a handwritten seven", "a handwritten two"])
    options = {}
    if kind == "sdxl":
        time_ids = torch.tensor([[40.0, 24, 3, 0, 16, 16]] * 2)
        options["added_cond_kwargs"] = {
            "text_embeds": text["pooled_prompt_embeds"],
            "time_ids": time_ids,
        }
    expected = pipelines[kind].unet(
        draw.noisy, draw.index, encoder_hidden_states=text["prompt_embeds"], **options
    )
    prediction = family.predict(family.denoiser, draw)
    assert torch.equal(prediction, expected.sample)


def test_sdxl_time_ids_matter_and_are_demanded(load: Callable[..., models.Family]) -> None:
    family = load("sdxl")
    draw = example(family)
    conditions = dict(draw.conditions, time_ids=draw.conditions["time_ids"] + 9)
    other = replace(draw, conditions=conditions)
    predictions = [family.predict(family.denoiser, d) for d in (draw, other)]
    assert not torch.equal(*predictions)
    with pytest.raises(ValueError, match="original_size"):
        family.conditions(family.text(["a"]))


def test_predict_calls_the_wrapper_with_its_dtype(family: models.Family) -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module, self.calls = module, 0

        def forward(self, *args: torch.Tensor, **options: object) -> object:
            self.calls += 1
            return self.module(*args, **options)

    example_input = example(family)
    expected = family.predict(family.denoiser, example_input)
    wrapper = Wrapper(family.denoiser)
    assert torch.equal(family.predict(wrapper, example_input), expected)
    assert wrapper.calls == 1
    half = Wrapper(frozen_copy(family.denoiser).bfloat16())
    assert family.predict(half, example_input).dtype == torch.bfloat16


def test_latents_are_the_scaled_posterior(
    kind: str, family: models.Family, pipelines: dict[str, DiffusionPipeline]
) -> None:
    pixels = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = (family.encode(pixels)[name] for name in ("mean", "std"))
    with torch.no_grad():
        posterior = pipelines[kind].vae.encode(pixels).latent_dist
    scaling = {"sd15": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}[kind]
    assert mean.shape == (2, 4, 8, 12) and mean.dtype == torch.float32
    torch.testing.assert_close(mean, posterior.mean * scaling)
    torch.testing.assert_close(std, posterior.std * scaling)


@pytest.mark.parametrize(
    ("force_upcast", "dtype", "vae_dtype"),
    [
        (True, torch.bfloat16, torch.float32),
        (True, torch.float16, torch.float32),
        (False, torch.float16, torch.float32),
        (False, torch.bfloat16, torch.bfloat16),
        (False, torch.float32, torch.float32),
    ],
)
def test_vae_dtype(
    tmp_path: Path, force_upcast: bool, dtype: torch.dtype, vae_dtype: torch.dtype
) -> None:
    family = models.load(tiny.build_sdxl(tmp_path / "m", force_upcast=force_upcast), dtype=dtype)
    assert family.vae.dtype == vae_dtype
    assert family.denoiser.dtype == family.text_encoders[1].dtype == family.dtype == dtype
    family.to(dtype=torch.float32).to(dtype=dtype)
    assert family.vae.dtype == vae_dtype and family.dtype == dtype


def test_autocast_does_not_reach_the_vae(load: Callable[..., models.Family]) -> None:
    family = load("sdxl")
    pixels = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = family.encode(pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = family.encode(pixels)
        half = family.generate(["a"], [0], SamplingOptions(1))
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())
    assert half[0].size == (16, 16)


def test_encoders_that_are_not_loaded_change_no_prediction(
    kind: str, family: models.Family, folders: dict[str, Path]
) -> None:
    bare = models.load(folders[kind], encoders=False)
    assert bare.vae is None and set(bare.text_encoders) == {None}
    assert bare.latent_shape(16, 24) == family.latent_shape(16, 24)
    assert bare.fingerprint() == family.fingerprint()
    inputs = example(family)
    expected = family.predict(family.denoiser, inputs)
    assert torch.equal(bare.predict(bare.denoiser, inputs), expected)
    empty = bare.unconditional(family.text([""]))
    assert all(torch.equal(empty[name], value) for name, value in family.unconditional().items())
    with pytest.raises(RuntimeError, match="not loaded"):
        bare.text(["a seven"])


def test_encoders_that_are_not_loaded_are_named(kind: str, folders: dict[str, Path]) -> None:
    family = models.load(folders[kind], encoders=False)
    conditions = family.conditions(family.example_text(2), sizes())
    for use in (
        lambda: family.text(["a"]),
        lambda: family.encode(torch.zeros(1, 3, 16, 16)),
        lambda: family.generate(["a"], [0]),
    ):
        with pytest.raises(RuntimeError, match="not loaded"):
            use()
    family.to("cpu", torch.float32)
    noisy = torch.zeros(2, 4, 8, 8)
    draw = Draw(torch.tensor([0, 1]), noisy, noisy, conditions)
    assert family.predict(family.denoiser, draw).isfinite().all()


def sizes() -> dict[str, torch.Tensor]:
    return {name: torch.ones(2, 2) for name in ("original_size", "crop", "target_size")}


def test_inpainting_models_are_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    pipeline = DiffusionPipeline.from_pretrained(folders["sd15"])
    pipeline.unet = type(pipeline.unet).from_config({**pipeline.unet.config, "in_channels": 9})
    pipeline.save_pretrained(tmp_path / "inpainting")
    with pytest.raises(ValueError, match="takes 9 channels and the VAE gives 4"):
        models.load(tmp_path / "inpainting")


def test_a_new_scheduler_in_the_folder_gives_its_schedule(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    pipeline = DiffusionPipeline.from_pretrained(folders["sd15"])
    pipeline.scheduler = DDPMScheduler(num_train_timesteps=50, prediction_type="sample")
    pipeline.save_pretrained(tmp_path / "m")
    schedule = models.load(tmp_path / "m").schedule
    assert len(schedule) == 50 and schedule.prediction_type == "sample"
