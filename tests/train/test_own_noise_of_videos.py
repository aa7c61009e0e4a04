"""data.noise = "own" for generated videos: the sampler's noise in bits, where the clip is the whole video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny_video
from tests.train.test_own_noise import ALL_NOISE, PROMPTS, RULE, SIDE
from tglo import models, noise, philox
from tglo.cache.drawer import Drawer
from tglo.cache.latents import LatentCache
from tglo.cache.make import build, find_own_noise
from tglo.data.errors import CacheError
from tglo.data.manifest import read_manifest, write_manifest
from tglo.data.video import Clip, read_clip
from tglo.generation.generate import generate_images
from tglo.models import samplers
from tglo.settings import ClipOptions, ManifestOptions, SamplingOptions
from tglo.train import train
from tglo.train.config_files import parse_config

pytest.importorskip("av", reason="videos need PyAV")

BUILDERS: dict[str, Callable[..., Path]] = {
    "wan": tiny_video.build_wan,
    "wan22-5b": lambda folder: tiny_video.build_wan(folder, expand=True),
    "ltx": tiny_video.build_ltx,
}
OPTIONS = SamplingOptions(2, 1.0, height=SIDE, width=SIDE, frames=9)
CLIPS = ClipOptions((9,))


def generated(model: Path, folder: Path) -> Path:
    """Four videos of the model with scores: the manifest."""
    made = generate_images(str(model), PROMPTS, folder, OPTIONS, count=2, device="cpu")
    rows = read_manifest(made, require_scores=False)
    scored = rows.with_rows(replace(row, score=n / 4) for n, row in enumerate(rows))
    write_manifest(folder / "scored.csv", scored)
    return folder / "scored.csv"


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_draw_at_sigma_1_is_what_sampling_started_from(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = BUILDERS[kind](tmp_path / "model")
    family_class, started = models.family_of(model), []
    sampler = family_class.sampler

    def watched(predict: samplers.Predict, *arguments: Any) -> Tensor:
        seen: list[Tensor] = []

        def first(noisy: Tensor, timestep: Tensor) -> Tensor:
            seen.append(noisy)
            return predict(noisy, timestep)

        latents = sampler(first, *arguments)
        started.append(seen[0])
        return latents

    monkeypatch.setattr(family_class, "sampler", staticmethod(watched))
    scored = generated(model, tmp_path / "data")
    build(str(model), scored, tmp_path / "cache", resolution=SIDE, device="cpu", clips=CLIPS)
    rows, cache = read_manifest(scored), LatentCache(tmp_path / "cache")
    ids = rows.sample_ids().tolist()
    own = find_own_noise(str(model), scored, reading=ManifestOptions())
    own.check_sizes(cache, ids)
    assert cache.are_whole(ids).all()
    rule = replace(RULE, timesteps=ALL_NOISE, stratified=False)
    family = models.load(model, encoders=False)
    drawer = Drawer(rule, cache, family, torch.float32, own)
    draw = drawer.draw(drawer.read(ids, 1, keys=[ids[0]] * 4))
    assert draw.index.tolist() == [len(family.schedule) - 1] * 4
    assert torch.equal(draw.noisy, torch.cat(started))
    stored = cache.batch(ids)
    key = noise.Key(0, torch.tensor(ids), 1, philox.POSTERIOR)
    posterior = noise.normal(key, stored["mean"].shape[1:], device="cpu")
    latents = stored["mean"] + stored["std"] * posterior
    assert torch.equal(draw.target, draw.noisy - latents)


@pytest.mark.parametrize("clips", [ClipOptions((5,)), ClipOptions((9,), 32.0), ClipOptions((1,))])
def test_clips_that_are_not_the_whole_video_are_refused(clips: ClipOptions, tmp_path: Path) -> None:
    model = tiny_video.build_wan(tmp_path / "model")
    scored = generated(model, tmp_path / "data")
    build(str(model), scored, tmp_path / "cache", resolution=SIDE, device="cpu", clips=clips)
    cache = LatentCache(tmp_path / "cache")
    own = find_own_noise(str(model), scored, reading=ManifestOptions())
    with pytest.raises(CacheError, match=r"4 clips .* are not the whole videos.*--frames"):
        own.check_sizes(cache, cache.sample_ids().tolist())


def test_videos_are_trained_with_their_noise(tmp_path: Path) -> None:
    model = tiny_video.build_wan(tmp_path / "model")
    scored = generated(model, tmp_path / "data")
    build(str(model), scored, tmp_path / "cache", resolution=SIDE, device="cpu", clips=CLIPS)
    config = parse_config(
        {
            "model": {"path": str(model), "train": "lora"},
            "data": {
                "manifest": str(scored),
                "cache": str(tmp_path / "cache"),
                "noise": "own",
            },
            "objective": {"temperature": 0.1},
            "optimizer": {"steps": 2, "micro_batch": 2},
            "engine": {"device": "cpu", "kind": "plain"},
            "output": {"folder": str(tmp_path / "run"), "progress": False},
        }
    )
    assert train(config).finished


def test_which_clip_is_the_whole_video() -> None:
    from tests.data.test_video import file_of, numbered

    file = file_of(numbered(9), 16.0)
    assert read_clip(file, Clip(9, 16.0)).is_whole
    assert read_clip(file, Clip(9, 16.0, "start")).is_whole
    for clip in (Clip(8, 16.0), Clip(8, 16.0, "start"), Clip(9, 32.0), Clip(5, 8.0), Clip(1, 16.0)):
        assert not read_clip(file, clip).is_whole
    assert read_clip(file_of(numbered(1), 16.0), Clip(1, 16.0)).is_whole
