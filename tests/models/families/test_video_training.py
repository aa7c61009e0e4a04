"""Video models in training: what they are told of the noise, which draws they get, and exports beside the pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from tests.models.families.test_video import (
    BUILDERS,
    CLIPS,
    FRAMES,
    HEIGHT,
    OPTIONS,
    PROMPTS,
    WIDTH,
    manifest,
    run_config,
)
from tglo import models
from tglo.cache.drawer import DrawRule
from tglo.cache.make import build, build_reference
from tglo.models.execution import attention
from tglo.noise import Key, draw_index
from tglo.train import train

every_kind = pytest.mark.parametrize("kind", BUILDERS)
LONG = "a very long bar that goes from one side of the picture to the other, and does not come back"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("video")
    return {name: build(root / name) for name, build in BUILDERS.items()}


def pipeline_latents(pipeline: Any, family: models.Family) -> Tensor:
    """The normalised latents (B, C, F, h, w) that a pipeline samples with OPTIONS."""
    pipeline.set_progress_bar_config(disable=True)
    found = [
        pipeline(
            prompt=prompt,
            negative_prompt="",
            height=HEIGHT,
            width=WIDTH,
            num_frames=FRAMES,
            num_inference_steps=OPTIONS.steps,
            guidance_scale=OPTIONS.guidance,
            generator=torch.Generator().manual_seed(number),
            output_type="latent",
        ).frames
        for number, prompt in enumerate(PROMPTS)
    ]
    latents, shape = torch.cat(found), family.latent_shape(HEIGHT, WIDTH, FRAMES)
    if latents.dim() == 3:  # LTX gives tokens
        latents = latents.transpose(1, 2).reshape(-1, *shape)
    assert latents.shape[1:] == shape
    return latents


def own_latents(family: models.Family, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Those that tglo samples."""
    found: list[Tensor] = []
    decode = family.codec.decode
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(
            family.codec,
            "decode",
            lambda vae, latents: found.append(latents) or decode(vae, latents),
        )
        family.generate(PROMPTS, [0, 1], OPTIONS)
    return torch.cat(found)


def distance(mine: Tensor, expected: Tensor) -> float:
    return float((mine - expected).norm() / expected.norm())


@every_kind
def test_sampled_latents_are_the_pipelines(
    kind: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = models.load(folders[kind])
    expected = pipeline_latents(DiffusionPipeline.from_pretrained(folders[kind]), family)
    assert distance(own_latents(family, monkeypatch), expected) < 1e-6


@pytest.mark.parametrize("kind", ["wan", "wan22-5b"])
def test_wan_is_told_of_the_noise_as_by_its_pipeline(kind: str, folders: dict[str, Path]) -> None:
    """The pipeline tells the 5B every patch's timestep: in text to video, so in training, that of the whole video."""
    pipeline, family = DiffusionPipeline.from_pretrained(folders[kind]), models.load(folders[kind])
    calls: list[tuple[dict[str, Any], Tensor]] = []
    pipeline.transformer.register_forward_hook(
        lambda module, arguments, named, answer: calls.append((named, answer[0])), with_kwargs=True
    )
    pipeline_latents(pipeline, family)
    told = [call["timestep"] for call, _ in calls]
    tokens = family.image_tokens(HEIGHT, WIDTH, FRAMES)
    assert {t.shape for t in told} == {(1, tokens) if kind == "wan22-5b" else (1,)}
    with torch.no_grad():
        conditions = family.conditions(family.text(PROMPTS[:1]))
        for named, answer in calls[: 2 * OPTIONS.steps : 2]:  # of the first prompt, prompted
            timestep = named["timestep"].flatten()[:1].float()
            found = family.call(family.denoiser, named["hidden_states"], timestep, conditions)
            assert distance(found, answer) < 1e-6


@every_kind
def test_each_row_of_a_batch_has_its_own_timestep(kind: str, folders: dict[str, Path]) -> None:
    family = models.load(folders[kind], encoders=False)
    draw = family.example(2, HEIGHT, WIDTH, FRAMES)
    timesteps = family.timesteps(draw)
    assert timesteps[0] != timesteps[1]
    with torch.no_grad():
        together = family.predict(family.denoiser, draw)
        for row in (0, 1):
            conditions = {name: part[row : row + 1] for name, part in draw.conditions.items()}
            noisy, told = draw.noisy[row : row + 1], timesteps[row : row + 1]
            alone = family.call(family.denoiser, noisy, told, conditions)
            assert distance(alone, together[row : row + 1]) < 1e-5


def test_wans_draws_have_the_schedulers_shift(folders: dict[str, Path]) -> None:
    """Uniform before it: as many draws lie above a sigma as its steps do in sampling. What is told is the sigma."""
    family = models.load(folders["wan"], encoders=False)
    schedule = family.schedule
    unit = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(schedule.s, 3 * unit / (1 + 2 * unit))
    torch.testing.assert_close(schedule.timesteps, (1000 * schedule.s).float())
    drawn = schedule.s[draw_index(Key(0, torch.arange(20_000), 0), schedule)]
    assert drawn.mean().item() == pytest.approx(0.676, abs=0.005)  # 3/2 - 3/4 ln 3
    assert (drawn > 0.75).double().mean().item() == pytest.approx(0.5, abs=0.01)

    sampling = family.scheduler
    sampling.set_timesteps(20)
    sigmas = sampling.sigmas[:-1].double()
    at = (schedule.s.unsqueeze(0) - sigmas.unsqueeze(1)).abs().min(1).values
    assert at.max() < 2e-3  # the steps lie on the training's curve
    assert (sampling.timesteps - 1000 * sigmas).abs().max() <= 1.0  # it is told whole numbers there

    family.set_timesteps("shift(2)")
    drawn = family.schedule.s[draw_index(Key(0, torch.arange(20_000), 0), family.schedule)]
    assert (drawn > 6 / 7).double().mean().item() == pytest.approx(0.5, abs=0.01)  # 3 x 2 in all
    with pytest.raises(ValueError, match="no shift by resolution"):
        family.set_timesteps("resolution")


def test_ltxs_draws_are_uniform_or_follow_the_number_of_tokens(folders: dict[str, Path]) -> None:
    family = models.load(folders["ltx"], encoders=False)
    assert torch.equal(family.schedule.s, torch.arange(1, 1001, dtype=torch.float64) / 1000)
    family.set_timesteps("resolution")
    half = torch.tensor([0.5], dtype=torch.float64)
    for tokens in (1024, 4096):  # where its scheduler states the shift's logarithm: 0.95 and 2.05
        shift = float(torch.tensor(0.95 if tokens == 1024 else 2.05, dtype=torch.float64).exp())
        place = family.schedule.place(half, (8, tokens // 64, 8, 8)).item()
        assert place == pytest.approx(shift / (shift + 1))


def cache_of(folder: Path, root: Path, prompts: tuple[str, ...] = ()) -> None:
    """Cache six videos of two lengths and the reference's errors; prompts: in place of the first ones."""
    scored = manifest(root / "data")
    lines = scored.read_text().splitlines()
    for number, prompt in enumerate(prompts, start=1):
        lines[number] = f'"{prompt}",' + lines[number].split(",", 1)[1]
    scored.write_text("\n".join(lines) + "\n")
    with torch.no_grad():
        build(str(folder), scored, root / "cache", resolution=32, device="cpu", clips=CLIPS)
        build_reference(
            str(folder),
            root / "cache",
            root / "cache" / "reference",
            DrawRule(0, 0.3, draws=2, stratified=True),
            device="cpu",
            progress=False,
        )


@every_kind
def test_uneven_prompts_and_lengths_train_and_resume(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Prompts of several lengths and none beside each other, and batches of 9 and of 13 frames, in one run."""
    cache_of(folders[kind], tmp_path, (LONG, "bar", LONG[:40]))
    exports = []
    for reference in ("adapter-off", "cached"):
        for stops in ((4,), (2, 4)):
            name = f"{reference}-{len(stops)}"
            for steps in stops:
                config = run_config(
                    folders[kind],
                    tmp_path,
                    data={"caption_dropout": 0.3},
                    objective={"reference": reference},
                    optimizer={"steps": steps, "micro_batch": 3, "schedule": "constant"},
                    output={"folder": str(tmp_path / name), "save_every": 2},
                )
                result = train(config)
            assert result.export is not None
            exports.append((result.export / "pytorch_lora_weights.safetensors").read_bytes())
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        first = json.loads(lines[0])
        apart = max(abs(first["r_positive"]), abs(first["r_negative"]))
        assert apart <= (1e-5 if reference == "cached" else 0.0), reference
    assert exports[0] == exports[1] and exports[2] == exports[3]


@every_kind
def test_exports_are_the_trained_model_in_plain_diffusers(
    kind: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A LoRA by load_lora_weights, all weights as a folder: both sample what tglo samples with them."""
    cache_of(folders[kind], tmp_path)
    base = pipeline_latents(
        DiffusionPipeline.from_pretrained(folders[kind]), models.load(folders[kind])
    )
    for train_what, reference in (("lora", "adapter-off"), ("full", "copy")):
        config = run_config(
            folders[kind],
            tmp_path,
            model={"train": train_what},
            objective={"reference": reference},
            output={"folder": str(tmp_path / train_what)},
        )
        export = train(config).export
        assert export is not None
        lora = train_what == "lora"
        pipeline = DiffusionPipeline.from_pretrained(folders[kind] if lora else export)
        family = models.load(folders[kind] if lora else export)
        if lora:
            pipeline.load_lora_weights(export)
            family.load_lora(export)
        latents = pipeline_latents(pipeline, family)
        assert distance(own_latents(family, monkeypatch), latents) < 1e-6
        assert distance(latents, base) > 1e-3


@pytest.mark.parametrize("kind", ["wan", "ltx"])
def test_half_precision_is_the_pipelines_and_trains(
    kind: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wan's class keeps its embedding of time, its norms and its modulations in float32."""
    family = models.load(folders[kind], dtype=torch.bfloat16)
    half = {"default": torch.bfloat16, "vae": torch.float32}
    pipeline = DiffusionPipeline.from_pretrained(folders[kind], dtype=half)
    assert family.dtype == torch.bfloat16 == family.denoiser.dtype
    names = dict(family.denoiser.named_parameters())
    assert all(p.dtype == names[n].dtype for n, p in pipeline.transformer.named_parameters())
    latents = pipeline_latents(pipeline, family)
    assert distance(own_latents(family, monkeypatch), latents) < 0.02  # two steps of bfloat16
    attention.set_backend(family.denoiser, "sdpa")

    cache_of(folders[kind], tmp_path)
    for reference in ("adapter-off", "copy"):
        config = run_config(
            folders[kind],
            tmp_path,
            model={"base_weights": "half"},
            objective={"reference": reference},
            engine={"precision": "bf16"},
            output={"folder": str(tmp_path / reference)},
        )
        train(config)
        lines = (tmp_path / reference / "metrics.jsonl").read_text().splitlines()
        first, second = map(json.loads, lines)
        assert first["r_positive"] == first["r_negative"] == 0 != second["r_positive"]
