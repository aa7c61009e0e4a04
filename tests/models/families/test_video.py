"""The families of video models beside their own pipelines."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch.nn.functional import pad

from tests import tiny_flow, tiny_video
from tests.tiny_video import scored_videos as manifest
from tglo import cli, models
from tglo.cache.latents import LatentCache
from tglo.cache.make import build, is_made_of
from tglo.data.errors import CacheError
from tglo.models.execution.attention import set_backend
from tglo.models.execution.checkpointing import MODES
from tglo.models.registry import skeleton_of
from tglo.settings import ClipOptions, SamplingOptions
from tglo.train import train
from tglo.train.config_files import parse_config

BUILDERS: dict[str, Callable[..., Path]] = {
    "wan": tiny_video.build_wan,
    "wan22-5b": lambda folder: tiny_video.build_wan(folder, expand=True),
    "ltx": tiny_video.build_ltx,
    "ltx-0.9.1": lambda folder: tiny_video.build_ltx(folder, timestep_conditioning=True),
}
PROMPTS = ["a small red circle", "Zwei Katzen  auf dem Dach &amp; ein Hund"]
FRAMES, HEIGHT, WIDTH = 9, 32, 64
OPTIONS = SamplingOptions(4, 3.0, height=HEIGHT, width=WIDTH, frames=FRAMES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("video")
    return {name: build(root / name) for name, build in BUILDERS.items()}


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("kind", BUILDERS)
def test_videos_are_the_pipelines(kind: str, folders: dict[str, Path]) -> None:
    """Text, schedule, guidance, normalisation and decoding: one of them off, and the videos differ."""
    family = models.load(folders[kind])
    pipeline = DiffusionPipeline.from_pretrained(folders[kind])
    pipeline.set_progress_bar_config(disable=True)
    videos = family.generate(PROMPTS, [0, 1], OPTIONS)
    for number, (prompt, video) in enumerate(zip(PROMPTS, videos, strict=True)):
        expected = pipeline(
            prompt=prompt,
            negative_prompt="",
            height=HEIGHT,
            width=WIDTH,
            num_frames=FRAMES,
            num_inference_steps=4,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(number),
            output_type="np",
        ).frames[0]
        found = np.stack([np.asarray(frame, dtype=np.float32) for frame in video.frames])
        assert found.shape == expected.shape == (FRAMES, HEIGHT, WIDTH, 3)
        assert np.abs(found / 255 - expected).max() < 0.51 / 255 and found.std() > 5
        assert video.rate == family.frame_rate


@pytest.mark.parametrize("kind", BUILDERS)
def test_latents_are_the_vaes_normalised(kind: str, folders: dict[str, Path]) -> None:
    family = models.load(folders[kind])
    shape = (1, 3, FRAMES, HEIGHT, WIDTH)
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    stored = family.encode(pixels)
    latents = (1, *family.latent_shape(HEIGHT, WIDTH, FRAMES))
    assert stored["mean"].shape == stored["std"].shape == latents
    assert (stored["std"] > 0).all()
    again = family.codec.decode(family.vae, stored["mean"])
    raw = family.vae.encode(pixels).latent_dist.mean
    told = [torch.zeros(1)] if kind == "ltx-0.9.1" else []
    expected = family.vae.decode(raw, *told, return_dict=False)[0]
    torch.testing.assert_close(again, expected.clamp(-1, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_prompts_text_does_not_depend_on_its_batch(kind: str, folders: dict[str, Path]) -> None:
    family = models.load(folders[kind])
    draw = family.example(2, HEIGHT, WIDTH)
    answers = []
    for prompts in (PROMPTS[:1], PROMPTS):
        rows, conditions = len(prompts), family.conditions(family.text(prompts))
        noisy, timesteps = draw.noisy[:rows, :, :2], family.timesteps(draw)[:rows]
        answers.append(family.call(family.denoiser, noisy, timesteps, conditions)[0])
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", BUILDERS)
def test_frames_that_the_vae_cannot_make_are_refused(kind: str, folders: dict[str, Path]) -> None:
    family = models.load(folders[kind], encoders=False)
    assert family.latent_shape(HEIGHT, WIDTH, 1)[1] == 1
    with pytest.raises(
        ValueError, match=r"frames is 12; .* multiple of 4 plus 1: 13 is the nearest"
    ):
        family.latent_shape(HEIGHT, WIDTH, 12)


def test_one_timestep_says_what_one_a_patch_does(folders: dict[str, Path]) -> None:
    """Wan 2.2's pipeline tells its 5B model the timestep of every patch, and in training they are all the same."""
    family = models.load(folders["wan22-5b"], encoders=False)
    draw = family.example(2, HEIGHT, WIDTH, FRAMES)
    tokens = family.image_tokens(HEIGHT, WIDTH, FRAMES)
    expected = family.denoiser(
        hidden_states=draw.noisy,
        timestep=family.timesteps(draw).unsqueeze(1).expand(-1, tokens),
        encoder_hidden_states=pad(draw.conditions["prompt_embeds"], (0, 0, 0, 512 - 16)),
        return_dict=False,
    )[0]
    torch.testing.assert_close(family.predict(family.denoiser, draw), expected)


def test_two_transformers_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(folders["wan"])
    pipeline.register_to_config(boundary_ratio=0.875)
    pipeline.save_pretrained(tmp_path / "two")
    with pytest.raises(ValueError, match="has two transformers"):
        models.load(tmp_path / "two")


@pytest.mark.parametrize(
    ("name", "size", "elements", "temperature"),
    [
        ("wan21-1.3b", (480, 832), 2_096_640, 7.8e-6),
        ("wan22-5b", (704, 1280), 3_548_160, 4.6e-6),
        ("ltx-2b", (512, 704), 946_176, 1.73e-5),
    ],
)
def test_the_temperature_follows_the_elements_of_the_models_own_clip(
    name: str, size: tuple[int, int], elements: int, temperature: float
) -> None:
    """Wan's 81 frames of 480 x 832 are 2.1 million elements: 128 times SD1.5's 16,384, for which T is 0.001."""
    skeleton = skeleton_of(name)
    assert skeleton.default_size == size
    assert math.prod(skeleton.latent_shape(*size)) == elements
    assert 1e-3 * 16_384 / elements == pytest.approx(temperature, rel=0.01)


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_run_without_a_temperature_takes_that_one(kind: str, folders: dict[str, Path]) -> None:
    family = models.load(folders[kind], encoders=False)
    elements = math.prod(family.latent_shape(*family.default_size, family.default_frames))
    assert family.temperature(None) == pytest.approx(1e-3 * 16_384 / elements, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("wan21-1.3b", 1.42), ("wan21-14b", 14.3), ("wan22-5b", 5.0), ("ltx-2b", 1.92)],
)
def test_published_models_have_their_sizes(name: str, billions: float) -> None:
    weights = skeleton_of(name).build(torch.bfloat16).parameters()
    assert sum(p.numel() for p in weights) / 1e9 == pytest.approx(billions, abs=0.06)


def run_config(folder: Path, root: Path, **parts: dict[str, Any]) -> Any:
    settings: dict[str, dict[str, Any]] = {
        "model": {"path": str(folder), "train": "lora"},
        "data": {"manifest": str(root / "data" / "scored.csv"), "cache": str(root / "cache")},
        "objective": {"temperature": 0.1, "reference": "adapter-off"},
        "optimizer": {"steps": 2, "micro_batch": 2, "learning_rate": 1e-2},
        "engine": {"device": "cpu", "kind": "plain"},
        "output": {"folder": str(root / "run"), "progress": False, "log_every": 1},
    }
    for name, values in parts.items():
        settings[name] |= values
    return parse_config(settings)


CLIPS = ClipOptions((9, 13), 16.0)


@pytest.mark.parametrize("kind", ["wan", "ltx"])
@pytest.mark.parametrize("part", ["lora", "full"])
def test_a_run_is_the_same_whatever_is_checkpointed(
    kind: str, part: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    scored = manifest(tmp_path / "data")
    build(str(folders[kind]), scored, tmp_path / "cache", resolution=32, device="cpu", clips=CLIPS)
    exports = []
    for mode in MODES:
        config = run_config(
            folders[kind],
            tmp_path,
            model={"train": part, "gradient_checkpointing": mode},
            objective={"reference": "adapter-off" if part == "lora" else "copy"},
            output={"folder": str(tmp_path / mode)},
        )
        with torch.enable_grad():
            export = train(config).export
        assert export is not None
        files = sorted(export.rglob("*.safetensors"))
        exports.append([file.read_bytes() for file in files])
    assert exports[0] and exports[1] == exports[0] and exports[2] == exports[0]


@pytest.mark.parametrize("kind", ["wan", "ltx"])
def test_a_clip_is_as_long_as_its_video_lets_it_be(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    scored, cache = manifest(tmp_path / "data"), tmp_path / "cache"
    build(str(folders[kind]), scored, cache, resolution=32, device="cpu", clips=CLIPS)
    found = LatentCache(cache)
    buckets = found.buckets(found.sample_ids())
    assert [buckets.count(bucket) for bucket in sorted(set(buckets))] == [3, 3]
    assert {bucket[0] for bucket in buckets} == {9, 13}
    batch = found.batch(found.sample_ids()[[b[0] == 13 for b in buckets]])
    family = models.load(folders[kind], encoders=False)
    _, height, width = buckets[[b[0] for b in buckets].index(13)]
    assert batch["mean"].shape == (3, *family.latent_shape(height, width, 13))
    assert batch["target_size"].tolist() == [[height, width]] * 3


def test_videos_that_are_too_short_are_set_aside(folders: dict[str, Path], tmp_path: Path) -> None:
    scored = manifest(tmp_path / "data")
    clips, options = ClipOptions((13,)), {"resolution": 32, "device": "cpu"}
    with pytest.raises(CacheError, match="shorter than the clip of 13 frames at 16 a second"):
        build(str(folders["wan"]), scored, tmp_path / "cache", clips=clips, **options)
    report = build(
        str(folders["wan"]),
        scored,
        tmp_path / "cache",
        clips=clips,
        max_bad_fraction=0.5,
        **options,
    )
    assert report.samples == 3 and len(report.quarantined) == 3


def test_clips_are_of_videos(folders: dict[str, Path], tmp_path: Path) -> None:
    flux = tiny_flow.build_flux(tmp_path / "flux")
    with pytest.raises(ValueError, match="are of videos, and flux makes images"):
        build(
            str(flux),
            manifest(tmp_path / "data"),
            tmp_path / "cache",
            resolution=32,
            device="cpu",
            clips=CLIPS,
        )


def test_generated_videos_are_cached_and_trained_on_by_the_commands(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """generate -> cache: MP4 files with sheets, as many as asked for, made once, and read again."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a bar\n")
    data, model = tmp_path / "data", str(folders["wan"])
    command = ["generate", "--model", model, "--prompts", str(prompts), "--output", str(data)]
    command += ["--count", "2", "--steps", "2", "--height", "32", "--width", "32", "--frames", "9"]
    assert cli.main([*command, "--device", "cpu"]) == 0
    videos = sorted((data / "images").glob("*.mp4"))
    assert len(videos) == 2 == len(list((data / "images").glob("*.png")))
    before = [video.read_bytes() for video in videos]
    videos[0].write_bytes(before[0][:-20])  # torn: made again, and the other is kept
    assert cli.main([*command, "--device", "cpu"]) == 0
    assert [video.read_bytes() for video in videos] == before
    cache = ["cache", "--model", model, "--manifest", str(data / "manifest.csv"), "--device", "cpu"]
    cache += ["--output", str(tmp_path / "cache"), "--resolution", "32", "--frames", "9"]
    assert cli.main(cache) == 0
    found = LatentCache(tmp_path / "cache")
    assert set(found.buckets(found.sample_ids())) == {(9, 32, 32)}
    assert found.fingerprint["clip"] == "middle, 16 frames per second"
    assert is_made_of(tmp_path / "cache", data / "manifest.csv", 32)
    with pytest.raises(CacheError, match=r"has clips of \[9\] frames from the middle, 16 frames"):
        is_made_of(tmp_path / "cache", data / "manifest.csv", 32, clips=ClipOptions(clip="start"))


@pytest.mark.parametrize("kind", BUILDERS)
def test_attention_can_be_chosen(kind: str, folders: dict[str, Path]) -> None:
    family = models.load(folders[kind], encoders=False)
    draw = family.example(2, HEIGHT, WIDTH, FRAMES)
    expected = family.predict(family.denoiser, draw)
    set_backend(family.denoiser, "sdpa")
    assert torch.equal(family.predict(family.denoiser, draw), expected)
