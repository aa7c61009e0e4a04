"""The flow-matching families beside their own pipelines, and what only they have; test_all.py has the rest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from tests import tiny_flow
from tests.models.families.test_all import run_config
from tests.models.families.test_toy import manifest
from tglo import models
from tglo.cache.drawer import Drawer, DrawRule
from tglo.cache.latents import LatentCache
from tglo.cache.make import build, build_reference
from tglo.data.errors import CacheError
from tglo.models import fingerprint, lora
from tglo.models.codecs import PatchCodec
from tglo.models.execution.attention import set_backend
from tglo.models.registry import skeleton_of
from tglo.noise.density import LogitNormal, Shift
from tglo.settings import SamplingOptions
from tglo.train import train

BUILDERS: dict[str, Callable[..., Path]] = {
    "flux-dev": tiny_flow.build_flux,
    "flux-schnell": lambda folder: tiny_flow.build_flux(folder, guidance=False),
    "sd3": tiny_flow.build_sd3,
    "sd35-medium": lambda folder: tiny_flow.build_sd3(folder, medium=True),
    "sd3-without-t5": lambda folder: tiny_flow.build_sd3(folder, t5=False),
    "qwen-image": tiny_flow.build_qwen_image,
    "z-image": tiny_flow.build_z_image,
    "flux2-dev": tiny_flow.build_flux2,
    "klein": tiny_flow.build_flux2_klein,
    "klein-distilled": lambda folder: tiny_flow.build_flux2_klein(folder, distilled=True),
    "sana": tiny_flow.build_sana,
}
FAMILIES = ("flux-dev", "sd35-medium", "qwen-image", "z-image", "flux2-dev", "klein", "sana")
PROMPTS = ["a small red circle", "Zwei Katzen auf dem Dach"]
HEIGHT, WIDTH = 32, 64
NO_T5 = {"text_encoder_3": None, "tokenizer_3": None}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("flow")
    return {name: build(root / name) for name, build in BUILDERS.items()}


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    """Encoders choose other kernels where a gradient may be wanted."""
    with torch.no_grad():
        yield


def pipeline_images(
    kind: str, pipeline: Any, shape: tuple[int, ...], guidance: float, output: str = "pil"
) -> Any:
    """The pipeline's own images or latents, each from its prompt alone and the noise of its number."""
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for number, prompt in enumerate(PROMPTS):
        generator = torch.Generator().manual_seed(number)
        latents = torch.randn(shape, generator=generator).unsqueeze(0)
        options: dict[str, Any] = {"guidance_scale": guidance}
        if kind in ("flux-dev", "flux-schnell", "qwen-image"):
            frames = latents.unsqueeze(1) if kind == "qwen-image" else latents
            latents = pipeline._pack_latents(frames, 1, *shape)
        if kind == "qwen-image":
            options = {"true_cfg_scale": guidance, "negative_prompt": ""}
        if kind in ("z-image", "sd3", "sd35-medium", "sd3-without-t5"):
            options["negative_prompt"] = ""
        if kind == "flux-schnell":
            options["max_sequence_length"] = 256
        if kind == "sana":
            options["use_resolution_binning"] = False
        images += pipeline(
            prompt=prompt,
            latents=latents,
            height=HEIGHT,
            width=WIDTH,
            num_inference_steps=4,
            output_type=output,
            **options,
        ).images
    return images


@pytest.mark.parametrize("kind", BUILDERS)
def test_images_are_the_pipelines(kind: str, folders: dict[str, Path]) -> None:
    """Text, schedule, guidance, normalisation and decoding: one of them off, and the images differ."""
    family = models.load(folders[kind])
    dropped = NO_T5 if kind == "sd3-without-t5" else {}
    pipeline = DiffusionPipeline.from_pretrained(folders[kind], **dropped)
    shape = family.latent_shape(HEIGHT, WIDTH)
    expected = pipeline_images(kind, pipeline, shape, 3.0)
    options = SamplingOptions(4, 3.0, height=HEIGHT, width=WIDTH)
    images = family.generate(PROMPTS, [0, 1], options)
    for mine, theirs in zip(images, expected, strict=True):
        a, b = (np.asarray(image).astype(int) for image in (mine, theirs))
        assert np.abs(a - b).max() <= 1 and b.std() > 5  # a level where float rounding decides


@pytest.mark.parametrize("kind", BUILDERS)
def test_sampled_latents_are_the_pipelines(
    kind: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = models.load(folders[kind])
    pipeline = DiffusionPipeline.from_pretrained(
        folders[kind], **(NO_T5 if kind == "sd3-without-t5" else {})
    )
    shape, found, decode = family.latent_shape(HEIGHT, WIDTH), [], family.codec.decode
    monkeypatch.setattr(
        family.codec, "decode", lambda vae, latents: found.append(latents) or decode(vae, latents)
    )
    family.generate(PROMPTS, [0, 1], SamplingOptions(4, 3.0, height=HEIGHT, width=WIDTH))
    expected = torch.stack([*pipeline_images(kind, pipeline, shape, 3.0, "latent")])
    mine = found[0]
    if kind in ("flux-dev", "flux-schnell", "qwen-image"):
        mine = pipeline._pack_latents(
            mine.unsqueeze(1) if kind == "qwen-image" else mine, 2, *shape
        )
    if kind == "flux2-dev":
        mine = mine.flatten(2).transpose(1, 2)
    elif isinstance(family.codec, PatchCodec):  # [klein]'s gives them back as the VAE takes them
        shift, factor = family.codec._statistics(family.vae)
        mine = torch.nn.functional.pixel_shuffle(mine / factor + shift, 2)
    difference = (mine - expected.reshape(mine.shape)).norm() / expected.norm()
    assert difference < 1e-6, difference


@pytest.mark.parametrize("kind", BUILDERS)
def test_guidance_counts_where_the_model_has_one(kind: str, folders: dict[str, Path]) -> None:
    family = models.load(folders[kind])

    def image(guidance: float) -> bytes:
        options = SamplingOptions(2, guidance, height=HEIGHT, width=HEIGHT)
        return family.generate(["a"], [0], options)[0].tobytes()

    assert (image(1.5) == image(4.0)) == (kind in ("flux-schnell", "klein-distilled"))


def test_one_step_of_a_schedule_with_a_last_sigma_is_refused(folders: dict[str, Path]) -> None:
    family = models.load(folders["qwen-image"])
    with pytest.raises(ValueError, match="steps is 1, .* at least 2"):
        family.generate(["a"], [0], SamplingOptions(1, 1.0, height=HEIGHT, width=HEIGHT))
    models.load(folders["flux-dev"]).generate(
        ["a"], [0], SamplingOptions(1, 1.0, height=HEIGHT, width=HEIGHT)
    )


@pytest.mark.parametrize("kind", FAMILIES)
def test_latents_are_what_the_decoder_takes_back(kind: str, folders: dict[str, Path]) -> None:
    """The pipeline's own normalisation, the other way round."""
    family = models.load(folders[kind])
    pixels = torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 2 - 1
    stored = family.encode(pixels)
    assert stored["mean"].shape == stored["std"].shape == (2, *family.latent_shape(HEIGHT, WIDTH))
    assert stored["mean"].isfinite().all() and (kind != "sana") == bool((stored["std"] > 0).all())
    again = family.codec.decode(family.vae, stored["mean"])
    raw = family.vae.encode(pixels.unsqueeze(2) if kind == "qwen-image" else pixels)
    latents = raw.latent if kind == "sana" else raw.latent_dist.mean
    expected = family.vae.decode(latents, return_dict=False)[0].reshape(pixels.shape)
    torch.testing.assert_close(again, expected.clamp(-1, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_prompts_text_does_not_depend_on_its_batch(kind: str, folders: dict[str, Path]) -> None:
    family = models.load(folders[kind])
    draw = family.example(2, HEIGHT, WIDTH)
    alone = family.conditions(family.text(PROMPTS[:1]))
    together = family.conditions(family.text(PROMPTS))
    answers = [
        family.call(
            family.denoiser, draw.noisy[: len(c["prompt_embeds"])], family.timesteps(draw)[:n], c
        )[0]
        for n, c in ((1, alone), (2, together))
    ]
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)


def test_chat_templates_are_part_of_the_fingerprint(folders: dict[str, Path]) -> None:
    family = models.load(folders["z-image"], encoders=False)
    before = fingerprint.encodings(family)
    family.tokenizers[0].chat_template += " "
    changed = fingerprint.encodings(family)
    assert {name for name in before if before[name] != changed[name]} == {"tokenizer_chat"}


def test_flux2_needs_the_tokenizer_of_its_processor_alone(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """The published folder has a PixtralProcessor, which needs torchvision for images that no prompt has."""
    family = models.load(folders["flux2-dev"])
    folder = shutil.copytree(folders["flux2-dev"], tmp_path / "published")
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "PixtralProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "tokenizer/processor_config.json").write_text('{"image_token": "[IMG]"}')
    published = models.load(folder)
    expected = family.text(["a cat"])["prompt_embeds"]
    assert torch.equal(published.text(["a [IMG]cat"])["prompt_embeds"], expected)
    assert published.fingerprint() == family.fingerprint()
    assert (published.save(tmp_path / "export") / "tokenizer/processor_config.json").is_file()


def test_flux2s_chat_and_system_are_part_of_the_fingerprint(folders: dict[str, Path]) -> None:
    family = models.load(folders["flux2-dev"], encoders=False)
    before = fingerprint.encodings(family)
    assert before["system"].startswith("You are an AI that reasons about image descriptions.")
    family.tokenizers[0].chat_template += " "
    changed = fingerprint.encodings(family)
    assert {name for name in before if before[name] != changed[name]} == {"tokenizer_chat"}


def test_parts_of_another_family_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(folders["flux-dev"])
    config = {**pipeline.transformer.config, "in_channels": 32}
    pipeline.transformer = type(pipeline.transformer).from_config(config)
    pipeline.save_pretrained(tmp_path / "fill")
    with pytest.raises(ValueError, match="takes 32 numbers a patch and the VAE gives 16"):
        models.load(tmp_path / "fill")


def test_sd3_does_without_t5_as_the_pipeline_does(folders: dict[str, Path], tmp_path: Path) -> None:
    family = models.load(folders["sd3-without-t5"])
    embeds = family.text(PROMPTS)["prompt_embeds"]
    assert embeds[:, :77].any() and not embeds[:, 77:].any()
    assert "text_encoder_3" not in family.fingerprint()
    family.add_lora(2, 2)
    family.save_lora(tmp_path / "lora")
    exported = DiffusionPipeline.from_pretrained(family.save(tmp_path / "export"), **NO_T5)
    assert exported.text_encoder_3 is None
    models.load(tmp_path / "export").load_lora(tmp_path / "lora")


def test_a_lora_has_layers_of_both_streams(folders: dict[str, Path]) -> None:
    for kind in ("sd3", "klein"):
        family = models.load(folders[kind], encoders=False)
        family.add_lora(2, 2)
        names = lora.state_dict(family.denoiser)
        assert any(".attn.to_q." in name for name in names)
        assert any(".attn.add_k_proj." in name for name in names)


def test_the_density_of_sd3_prefers_the_middle(folders: dict[str, Path]) -> None:
    density = models.load(folders["sd3"], encoders=False).schedule.density
    unit = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    places: Tensor = density(unit)
    assert ((places > 0) & (places < 1)).all() and (places.diff() > 0).all()
    inside = ((places > 0.25) & (places < 0.75)).double().mean()
    assert inside == pytest.approx(0.728, abs=0.002)  # P(|x| < ln 3) of a standard normal x


def test_the_run_chooses_its_timesteps_and_the_cache_knows_them(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder, data = folders["flux-dev"], tmp_path / "data"
    scored, cache = manifest(data), data / "cache"
    build(str(folder), scored, cache, resolution=HEIGHT, device="cpu")
    reference = cache / "reference"
    rule = DrawRule(0, 0.1, draws=2, stratified=True, timesteps="resolution", guidance=1.0)
    build_reference(str(folder), cache, reference, rule, device="cpu", progress=False)
    cached = {"reference": "cached"}
    chosen = {"timesteps": "resolution", "guidance": 1.0}
    with torch.enable_grad():
        train(run_config(folder, data, tmp_path / "run", objective=cached, data=chosen))
    first = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    assert max(abs(first["r_positive"]), abs(first["r_negative"])) <= 1e-5
    for other in ({"timesteps": "resolution"}, {"guidance": 1.0}, chosen | {"guidance": 2.0}):
        with pytest.raises(CacheError, match="timesteps|guidance|schedule"):
            train(run_config(folder, data, tmp_path / "run", objective=cached, data=other))


def test_choices_that_a_model_does_not_have_are_refused(folders: dict[str, Path]) -> None:
    family = models.load(folders["sd3"], encoders=False)
    with pytest.raises(ValueError, match="no shift by resolution"):
        family.set_timesteps("resolution")
    family.set_timesteps("shift(2)")
    assert family.schedule.density == Shift(2.0)
    family.set_timesteps("default")
    assert family.schedule.density == LogitNormal()


def test_guidance_in_training_is_refused_by_models_that_are_not_told_any(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    scored, cache = manifest(tmp_path / "data"), tmp_path / "cache"
    build(str(folders["flux-schnell"]), scored, cache, resolution=HEIGHT, device="cpu")
    rule = DrawRule(0, 0.0, draws=2, stratified=True, guidance=3.5)
    for kind in ("flux-schnell", "sd3", "klein", "klein-distilled"):
        family = models.load(folders[kind], encoders=False)
        with pytest.raises(ValueError, match="guidance is 3.5, but .*; leave it out"):
            Drawer(rule, LatentCache(cache), family, torch.float32)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("flux-dev", 11.9),
        ("sd35-medium", 2.3),
        ("sd35-large", 8.1),
        ("sana-1600m", 1.6),
        ("flux2-dev", 32.2),
        ("flux2-klein-4b", 3.88),
        ("flux2-klein-9b", 9.08),
    ],
)
def test_published_models_have_their_sizes(name: str, billions: float) -> None:
    weights = skeleton_of(name).build(torch.bfloat16).parameters()
    assert sum(p.numel() for p in weights) / 1e9 == pytest.approx(billions, abs=0.06)


@pytest.mark.parametrize("kind", FAMILIES)
def test_attention(kind: str, folders: dict[str, Path]) -> None:
    family = models.load(folders[kind], encoders=False)
    draw = family.example(2, HEIGHT, HEIGHT)
    expected = family.predict(family.denoiser, draw)
    set_backend(family.denoiser, "sdpa")
    assert torch.equal(family.predict(family.denoiser, draw), expected)


def test_sd3s_sides_end_with_its_table_of_places(folders: dict[str, Path], tmp_path: Path) -> None:
    """16 places of 2 x 2 latents, and a latent is 2 x 2 pixels: before anything is encoded."""
    folder, told = str(folders["sd3"]), "places for sides of up to 64 pixels"
    with pytest.raises(ValueError, match=told):
        build(folder, manifest(tmp_path / "data"), tmp_path / "cache", resolution=64, device="cpu")
    with pytest.raises(ValueError, match=told):
        models.load(folder).generate(["x"], [0], SamplingOptions(1, 1.0, height=128, width=32))
    denoiser = skeleton_of(folder).build(torch.bfloat16)
    with pytest.raises(ValueError, match=told):
        skeleton_of(folder).inputs(denoiser, 1, 128, 128)
