"""The flow-matching families beside their own pipelines, and through cache, training and export."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from tests import tiny_flow
from tests.models.families.test_toy import manifest
from tglo import models
from tglo.cache.drawer import DrawRule
from tglo.cache.latents import LatentCache
from tglo.cache.make import build, build_reference
from tglo.data.errors import CacheError
from tglo.models import fingerprint, lora
from tglo.models.execution import checkpointing
from tglo.models.execution.attention import set_backend
from tglo.models.registry import skeleton_of
from tglo.noise.density import LogitNormal, Shift
from tglo.settings import SamplingOptions
from tglo.train import train
from tglo.train.config_files import parse_config

BUILDERS: dict[str, Callable[..., Path]] = {
    "flux-dev": tiny_flow.build_flux,
    "flux-schnell": lambda folder: tiny_flow.build_flux(folder, guidance=False),
    "sd3": tiny_flow.build_sd3,
    "sd35-medium": lambda folder: tiny_flow.build_sd3(folder, medium=True),
    "qwen-image": tiny_flow.build_qwen_image,
    "z-image": tiny_flow.build_z_image,
    "klein": tiny_flow.build_flux2_klein,
    "klein-distilled": lambda folder: tiny_flow.build_flux2_klein(folder, distilled=True),
    "sana": tiny_flow.build_sana,
}
FAMILIES = ("flux-dev", "sd35-medium", "qwen-image", "z-image", "klein", "sana")
PROMPTS = ["a small red circle", "Zwei Katzen auf dem Dach"]
HEIGHT, WIDTH = 32, 64


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("flow")
    return {name: build(root / name) for name, build in BUILDERS.items()}


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    """Encoders choose other kernels where a gradient may be wanted."""
    with torch.no_grad():
        yield


def pipeline_images(kind: str, pipeline: Any, shape: tuple[int, ...], guidance: float) -> Any:
    """The pipeline's own images, each from its prompt alone and the noise of its number."""
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for number, prompt in enumerate(PROMPTS):
        generator = torch.Generator().manual_seed(number)
        latents = torch.randn(shape, generator=generator).unsqueeze(0)
        options: dict[str, Any] = {"guidance_scale": guidance}
        if kind.startswith(("flux", "qwen")):
            frames = latents.unsqueeze(1) if kind == "qwen-image" else latents
            latents = pipeline._pack_latents(frames, 1, *shape)
        if kind == "qwen-image":
            options = {"true_cfg_scale": guidance, "negative_prompt": ""}
        if kind in ("z-image", "sd3", "sd35-medium"):
            options["negative_prompt"] = ""
        if kind == "sana":
            options["use_resolution_binning"] = False
        images += pipeline(
            prompt=prompt,
            latents=latents,
            height=HEIGHT,
            width=WIDTH,
            num_inference_steps=4,
            **options,
        ).images
    return images


@pytest.mark.parametrize("kind", BUILDERS)
def test_images_are_the_pipelines(kind: str, folders: dict[str, Path]) -> None:
    """Text, schedule, guidance, normalisation and decoding: one of them off, and the images differ."""
    family = models.load(folders[kind])
    pipeline = DiffusionPipeline.from_pretrained(folders[kind])
    shape = family.latent_shape(HEIGHT, WIDTH)
    expected = pipeline_images(kind, pipeline, shape, 3.0)
    options = SamplingOptions(4, 3.0, height=HEIGHT, width=WIDTH)
    images = family.generate(PROMPTS, [0, 1], options)
    for mine, theirs in zip(images, expected, strict=True):
        a, b = (np.asarray(image).astype(int) for image in (mine, theirs))
        assert np.abs(a - b).max() <= 1 and b.std() > 5  # a level where float rounding decides


@pytest.mark.parametrize("kind", BUILDERS)
def test_guidance_counts_where_the_model_has_one(kind: str, folders: dict[str, Path]) -> None:
    family = models.load(folders[kind])

    def image(guidance: float) -> bytes:
        options = SamplingOptions(2, guidance, height=HEIGHT, width=HEIGHT)
        return family.generate(["a"], [0], options)[0].tobytes()

    assert (image(1.5) == image(4.0)) == (kind in ("flux-schnell", "klein-distilled"))


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


def run_config(folder: Path, root: Path, **parts: dict[str, Any]) -> Any:
    settings: dict[str, dict[str, Any]] = {
        "model": {"path": str(folder), "train": "lora"},
        "data": {"manifest": str(root / "data" / "scored.csv"), "cache": str(root / "cache")},
        "objective": {"temperature": 0.1, "reference": "adapter-off"},
        "optimizer": {"steps": 2, "micro_batch": 3, "learning_rate": 1e-2},
        "engine": {"device": "cpu", "kind": "plain"},
        "output": {"folder": str(root / "run"), "progress": False, "log_every": 1},
    }
    for name, values in parts.items():
        settings[name] |= values
    return parse_config(settings)


def first_r(run: Path) -> float:
    """The largest |r| before the first update."""
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    return max(abs(line["r_positive"]), abs(line["r_negative"]))


@pytest.mark.parametrize("kind", FAMILIES)
def test_it_is_cached_trained_exported_and_loaded_in_diffusers(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders[kind]
    scored = manifest(tmp_path / "data")
    cache = tmp_path / "cache"
    build(str(folder), scored, cache, resolution=HEIGHT, device="cpu")
    rule = DrawRule(0, 0.1, draws=2, stratified=True)
    build_reference(str(folder), cache, cache / "reference", rule, device="cpu", progress=False)
    check_cached_text(models.load(folder), LatentCache(cache))
    runs = {}
    for name, parts in {
        "full": {"model": {"train": "full"}, "objective": {"reference": "copy"}},
        "lora": {},
        "cached": {"objective": {"reference": "cached"}},
    }.items():
        run = tmp_path / name
        with torch.enable_grad():
            result = train(run_config(folder, tmp_path, **parts, output={"folder": str(run)}))
        assert result.finished and result.export is not None
        assert first_r(run) <= (1e-5 if name == "cached" else 0.0), name
        runs[name] = result.export
    before = images_of(DiffusionPipeline.from_pretrained(folder))
    assert images_of(DiffusionPipeline.from_pretrained(runs["full"])) != before
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(runs["lora"])
    assert images_of(pipeline) != before


def check_cached_text(family: models.Family, cache: LatentCache) -> None:
    """The cache gives back what the encoders gave, whatever the batch."""
    prompts = ["grey 1", "", "grey 0"]
    cached, fresh = cache.text(prompts), family.text(prompts)
    assert cached.keys() == fresh.keys()
    for name, tensor in fresh.items():
        torch.testing.assert_close(cached[name], tensor, rtol=1e-4, atol=1e-5)


def images_of(pipeline: Any) -> bytes:
    pipeline.set_progress_bar_config(disable=True)
    options = {"height": HEIGHT, "width": HEIGHT, "num_inference_steps": 2}
    if "use_resolution_binning" in inspect.signature(pipeline.__call__).parameters:
        options["use_resolution_binning"] = False
    generator = torch.Generator().manual_seed(0)
    return pipeline(prompt="grey 1", generator=generator, **options).images[0].tobytes()


@pytest.mark.parametrize("kind", ["flux-dev", "z-image"])
def test_a_resumed_run_is_the_same_run(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    scored = manifest(tmp_path / "data")
    build(str(folders[kind]), scored, tmp_path / "cache", resolution=HEIGHT, device="cpu")
    weights = []
    for stops in ((4,), (2, 4)):
        run = tmp_path / f"run{len(stops)}"
        for steps in stops:
            config = run_config(
                folders[kind],
                tmp_path,
                optimizer={"steps": steps, "schedule": "constant"},
                output={"folder": str(run), "save_every": 2},
            )
            with torch.enable_grad():
                result = train(config)
        weights.append((result.export / "pytorch_lora_weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_chat_templates_are_part_of_the_fingerprint(folders: dict[str, Path]) -> None:
    family = models.load(folders["z-image"], encoders=False)
    before = fingerprint.encodings(family)
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
    folder, cache = folders["flux-dev"], tmp_path / "cache"
    build(str(folder), manifest(tmp_path / "data"), cache, resolution=HEIGHT, device="cpu")
    reference = cache / "reference"
    rule = DrawRule(0, 0.1, draws=2, stratified=True, timesteps="resolution", guidance=1.0)
    build_reference(str(folder), cache, reference, rule, device="cpu", progress=False)
    cached = {"reference": "cached"}
    chosen = {"timesteps": "resolution", "guidance": 1.0}
    with torch.enable_grad():
        train(run_config(folder, tmp_path, objective=cached, data=chosen))
    assert first_r(tmp_path / "run") <= 1e-5
    for other in ({"timesteps": "resolution"}, {"guidance": 1.0}, chosen | {"guidance": 2.0}):
        with pytest.raises(CacheError, match="timesteps|guidance|schedule"):
            train(run_config(folder, tmp_path, objective=cached, data=other))


def test_choices_that_a_model_does_not_have_are_refused(folders: dict[str, Path]) -> None:
    family = models.load(folders["sd3"], encoders=False)
    with pytest.raises(ValueError, match="no shift by resolution"):
        family.set_timesteps("resolution")
    family.set_timesteps("shift(2)")
    assert family.schedule.density == Shift(2.0)
    family.set_timesteps("default")
    assert family.schedule.density == LogitNormal()


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_planner_calls_the_transformer_as_the_family_does(
    kind: str, folders: dict[str, Path]
) -> None:
    family = models.load(folders[kind], encoders=False)
    skeleton = skeleton_of(str(folders[kind]))
    assert skeleton.default_size == family.default_size
    assert skeleton.size_step == family.bucket_step
    denoiser = skeleton.build(torch.bfloat16)
    count = sum(p.numel() for p in family.denoiser.parameters())
    assert sum(p.numel() for p in denoiser.parameters()) == count
    answer = denoiser(**skeleton.inputs(denoiser, 2, HEIGHT, WIDTH))[0]
    answer = torch.stack(answer) if isinstance(answer, list) else answer
    assert answer.is_meta and len(answer) == 2
    assert answer.numel() == 2 * math.prod(family.latent_shape(HEIGHT, WIDTH))


@pytest.mark.parametrize(
    ("name", "billions"),
    [("flux-dev", 11.9), ("sd35-medium", 2.3), ("sd35-large", 8.1), ("sana-1600m", 1.6)],
)
def test_published_models_have_their_sizes(name: str, billions: float) -> None:
    weights = skeleton_of(name).build(torch.bfloat16).parameters()
    assert sum(p.numel() for p in weights) / 1e9 == pytest.approx(billions, abs=0.06)


@pytest.mark.parametrize("kind", FAMILIES)
def test_attention_and_checkpointing(kind: str, folders: dict[str, Path]) -> None:
    """SD3 and SANA have processors of their own, which no dispatcher reaches; docs/flow.md says so."""
    family = models.load(folders[kind], encoders=False)
    draw = family.example(2, HEIGHT, HEIGHT)
    expected = family.predict(family.denoiser, draw)
    if kind in ("sd35-medium", "sana"):
        with pytest.raises(ValueError, match="does not ask diffusers' dispatcher"):
            set_backend(family.denoiser, "sdpa")
    else:
        set_backend(family.denoiser, "sdpa")
        assert torch.equal(family.predict(family.denoiser, draw), expected)
    gradients = []
    for mode in ("none", "selective", "full"):
        family.denoiser.train().requires_grad_(True).zero_grad()
        checkpointing.set_mode(family.denoiser, mode)  # type: ignore[arg-type]
        with torch.enable_grad():
            family.predict(family.denoiser, draw).square().mean().backward()
        found = [p.grad for p in family.denoiser.parameters() if p.grad is not None]
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])
