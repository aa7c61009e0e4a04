"""One list of checks over all of FAMILIES: cached, trained, resumed, exported, reloaded, planned.

That images, latents and text are the pipeline's own: test_flow.py, test_stable_diffusion.py, test_masked.py.
"""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from tests import tiny, tiny_flow, tiny_video
from tests.models.families.test_toy import manifest
from tglo import models
from tglo.cache.drawer import DrawRule
from tglo.cache.latents import LatentCache
from tglo.cache.make import build, build_reference
from tglo.models.execution import checkpointing
from tglo.models.registry import FAMILIES, skeleton_of
from tglo.settings import ClipOptions
from tglo.train import train
from tglo.train.config_files import parse_config

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "StableDiffusionPipeline": tiny.build_sd15,
    "StableDiffusionXLPipeline": tiny.build_sdxl,
    "FluxPipeline": tiny_flow.build_flux,
    "StableDiffusion3Pipeline": partial(tiny_flow.build_sd3, medium=True),
    "QwenImagePipeline": tiny_flow.build_qwen_image,
    "ZImagePipeline": tiny_flow.build_z_image,
    "Flux2Pipeline": tiny_flow.build_flux2,
    "Flux2KleinPipeline": tiny_flow.build_flux2_klein,
    "SanaPipeline": tiny_flow.build_sana,
    "WanPipeline": tiny_video.build_wan,
    "LTXPipeline": tiny_video.build_ltx,
    "AmusedPipeline": tiny.build_amused,
    "Meissonic": tiny.build_meissonic,
}
SIDE = 32
every_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture
def folder(name: str, root: Path) -> Path:
    """A tiny model, built when it is first asked for; a family without a builder fails here."""
    path = root / name
    return path if path.exists() else BUILDERS[name](path)


@pytest.fixture
def data(name: str, folder: Path, root: Path) -> Path:
    """A folder with scored.csv, a cache of it, and cached reference errors, made once for each family."""
    path = root / f"{name}-data"
    if not path.exists():
        cache, clips = path / "cache", ClipOptions()
        if FAMILIES[name].default_frames is None:
            scored = manifest(path)
        else:
            scored, clips = tiny_video.scored_videos(path), ClipOptions((9, 13), 16.0)
        build(str(folder), scored, cache, resolution=SIDE, device="cpu", clips=clips)
        rule = DrawRule(0, 0.1, draws=2, stratified=True)
        build_reference(str(folder), cache, cache / "reference", rule, device="cpu", progress=False)
    return path


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    """Encoders choose other kernels where a gradient may be wanted."""
    with torch.no_grad():
        yield


def run_config(folder: Path, data: Path, run: Path, /, **parts: dict[str, Any]) -> Any:
    settings: dict[str, dict[str, Any]] = {
        "model": {"path": str(folder), "train": "lora"},
        "data": {"manifest": str(data / "scored.csv"), "cache": str(data / "cache")},
        "objective": {"temperature": 0.1, "reference": "adapter-off"},
        "optimizer": {"steps": 2, "micro_batch": 3, "learning_rate": 1e-2},
        "engine": {"device": "cpu", "kind": "plain"},
        "output": {"folder": str(run), "progress": False, "log_every": 1},
    }
    for name, values in parts.items():
        settings[name] |= values
    return parse_config(settings)


def output(name: str, folder: Path, lora: Path | None = None) -> bytes:
    """An image or a video by plain diffusers; Meissonic's pipeline is no part of it, so of it a prediction."""
    if name == "Meissonic":
        family = models.load(folder)
        if lora is not None:
            family.load_lora(lora)
        answer = family.predict(family.denoiser, family.example(2, SIDE, SIDE))
        return answer.numpy().tobytes()
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None and name == "AmusedPipeline":  # which loads none itself
        pipeline.transformer.load_lora_adapter(lora, prefix=None, use_safetensors=True)
    elif lora is not None:
        pipeline.load_lora_weights(lora)
    settings = {"height": SIDE, "width": SIDE, "num_inference_steps": 2}
    if "use_resolution_binning" in inspect.signature(pipeline.__call__).parameters:
        settings["use_resolution_binning"] = False
    generator = torch.Generator().manual_seed(0)
    if FAMILIES[name].default_frames is not None:
        settings |= {"num_frames": 5, "output_type": "np"}
        frames = pipeline(prompt="grey 1", generator=generator, **settings).frames
        return bytes(frames[0].tobytes())
    made = pipeline(prompt="grey 1", generator=generator, **settings).images[0]
    return made.tobytes()


def test_every_family_has_a_builder() -> None:
    assert BUILDERS.keys() == FAMILIES.keys()


@every_family
def test_it_loads_as_its_family_with_and_without_encoders(name: str, folder: Path) -> None:
    family, bare = models.load(folder), models.load(folder, encoders=False)
    assert type(family) is type(bare) is FAMILIES[name]
    assert family.fingerprint() == bare.fingerprint()
    draw = family.example(2, SIDE, 2 * SIDE)
    assert draw.noisy.shape == (2, *family.latent_shape(SIDE, 2 * SIDE))
    assert torch.equal(family.predict(family.denoiser, draw), bare.predict(bare.denoiser, draw))


@every_family
def test_the_cache_gives_back_what_the_encoders_gave(name: str, folder: Path, data: Path) -> None:
    family, cache = models.load(folder), LatentCache(data / "cache")
    word = "grey" if FAMILIES[name].default_frames is None else "bar"
    prompts = [f"{word} 1", "", f"{word} 0"]
    cached, fresh = cache.text(prompts), family.text(prompts)
    assert cached.keys() == fresh.keys()
    for key, tensor in fresh.items():
        torch.testing.assert_close(cached[key], tensor, rtol=1e-4, atol=1e-5)


@every_family
def test_it_is_trained_with_each_reference_exported_and_reloaded(
    name: str, folder: Path, data: Path, tmp_path: Path
) -> None:
    exports = {}
    for kind, parts in {
        "full": {"model": {"train": "full"}, "objective": {"reference": "copy"}},
        "lora": {},
        "cached": {"objective": {"reference": "cached"}},
    }.items():
        with torch.enable_grad():
            result = train(run_config(folder, data, tmp_path / kind, **parts))
        assert result.finished and result.export is not None
        first = json.loads((tmp_path / kind / "metrics.jsonl").read_text().splitlines()[0])
        apart = max(abs(first["r_positive"]), abs(first["r_negative"]))
        assert apart <= (1e-5 if kind == "cached" else 0.0), kind  # before the first update
        exports[kind] = result.export
    before = output(name, folder)
    assert output(name, exports["full"]) != before
    assert output(name, folder, exports["lora"]) != before


@every_family
def test_a_resumed_run_is_the_same_run(name: str, folder: Path, data: Path, tmp_path: Path) -> None:
    weights = []
    for stops in ((4,), (2, 4)):
        for steps in stops:
            config = run_config(
                folder,
                data,
                tmp_path / f"run{len(stops)}",
                optimizer={"steps": steps, "schedule": "constant"},
                output={"save_every": 2},
            )
            with torch.enable_grad():
                result = train(config)
        assert result.export is not None
        weights.append((result.export / "pytorch_lora_weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


@every_family
def test_the_planner_calls_the_denoiser_as_the_family_does(name: str, folder: Path) -> None:
    family = models.load(folder, encoders=False)
    if FAMILIES[name].answers_with_error:
        with pytest.raises(ValueError, match="neither one of"):
            skeleton_of(str(folder))  # masked models are not planned for
        return
    skeleton = skeleton_of(str(folder))
    assert skeleton.default_size == family.default_size
    assert skeleton.size_step == family.bucket_step
    denoiser = skeleton.build(torch.bfloat16)
    count = sum(p.numel() for p in family.denoiser.parameters())
    assert sum(p.numel() for p in denoiser.parameters()) == count
    frames = [13] if family.default_frames else []
    shape = family.latent_shape(SIDE, 2 * SIDE, *frames)
    assert skeleton.latent_shape(SIDE, 2 * SIDE, *frames) == shape
    assert skeleton.default_frames == family.default_frames
    answer = denoiser(**skeleton.inputs(denoiser, 2, SIDE, 2 * SIDE, *frames))[0]
    answer = torch.stack(answer) if isinstance(answer, list) else answer
    assert answer.is_meta and len(answer) == 2
    assert answer.numel() == 2 * math.prod(shape)


@every_family
def test_checkpointing_gives_the_same_gradients(name: str, folder: Path) -> None:
    family = models.load(folder, encoders=False)
    draw = family.example(2, SIDE, SIDE)
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


def test_importing_the_registry_imports_no_pipeline_of_a_flow_family() -> None:
    """Pipelines bring their text encoders along; each is imported when a model of it is loaded."""
    code = "import sys, tglo.models; print(*sorted(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = told.stdout.split()
    kinds = ("flux", "flux2", "stable_diffusion_3", "qwenimage", "z_image", "sana", "wan", "ltx")
    encoders = ("t5", "umt5", "qwen2_5_vl", "qwen3", "mistral3", "mistral", "pixtral", "gemma2")
    heavy = [f"diffusers.pipelines.{kind}" for kind in kinds]
    heavy += [f"transformers.models.{kind}" for kind in encoders]
    found = [m for m in loaded if any(m == h or m.startswith(f"{h}.") for h in heavy)]
    assert "tglo.models.families.flux" in loaded and not found
