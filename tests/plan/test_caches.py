"""The sizes of caches that `tglo plan` prints, beside those of caches themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import tiny, tiny_flow, tiny_video
from tglo import models
from tglo.cache.latents import LatentCache
from tglo.cache.make import build as make_cache
from tglo.cache.size import text_bytes
from tglo.commands.plan import flags_of
from tglo.models.registry import skeleton_of
from tglo.plan.caches import caches
from tglo.plan.options import Options
from tglo.plan.sample import sample_of
from tglo.settings import ClipOptions
from tglo.train import load_config

PROMPT_MB = {  # in bf16; of 60 tokens where only real ones are stored
    "sd15": 77 * 768 * 2e-6,
    "sdxl": (77 * 2048 + 1280) * 2e-6,
    "flux-dev": (512 * 4096 + 768) * 2e-6,
    "flux-schnell": (256 * 4096 + 768) * 2e-6,
    "sd35-medium": (333 * 4096 + 2048) * 2e-6,
    "qwen-image": 60 * 3584 * 2e-6,
    "z-image": 60 * 2560 * 2e-6,
    "sana-1600m": 60 * 2304 * 2e-6,
}
IMAGE_MB = {"sdxl": 0.524288, "flux-dev": 2.097152, "qwen-image": 2.097152, "sana-1600m": 0.262144}


@pytest.mark.parametrize("model", PROMPT_MB)
def test_published_models(model: str) -> None:
    sample = sample_of(model, skeleton_of(model), resolution=1024)
    found = caches(Options(model=model, prompts=100_000), sample)
    assert found.prompt / 1e6 == pytest.approx(PROMPT_MB[model], rel=1e-9)
    assert found.text == 100_000 * found.prompt
    assert found.image / 1e6 == IMAGE_MB.get(model, found.image / 1e6)
    assert ("60 tokens (assumed" in str(found)) == (
        model in ("qwen-image", "z-image", "sana-1600m")
    )


@pytest.mark.parametrize(
    "build",
    [tiny.build_sd15, tiny.build_sdxl, tiny_flow.build_sd3, tiny_flow.build_sana, tiny_flow.build_flux2_klein],
)  # fmt: skip
def test_a_folder_as_its_cache_has_it(build, tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    family, skeleton = models.load(folder, denoiser=False), skeleton_of(str(folder))
    assert skeleton.text_shapes() == family.text_shapes()
    assert skeleton.stored_bytes(64, 32) == family.codec.stored_bytes(64, 32)
    found = caches(Options(model=str(folder)), sample_of("", skeleton, height=64, width=32))
    expected = text_bytes(family.text_shapes(), found.tokens or 0, torch.bfloat16)
    assert found.prompt == expected and found.image == family.codec.stored_bytes(64, 32)


def test_the_line_says_for_how_many_prompts() -> None:
    sample = sample_of("flux-dev", skeleton_of("flux-dev"))
    assert str(caches(Options(model="flux-dev", prompts=100_000), sample)) == (
        "cache: text in bf16 4.2 MB a prompt, 420 GB for 100,000 prompts; fp32 takes twice that; "
        "latents 2.1 MB an image"
    )


@pytest.mark.parametrize("build", [tiny_video.build_wan, tiny_video.build_ltx])
def test_a_clip_takes_what_its_files_have(build: Callable[[Path], Path], tmp_path: Path) -> None:
    """Text and latents of a cache of clips, whose samples are all of one bucket."""
    folder, cache = build(tmp_path / "model"), tmp_path / "cache"
    videos = tiny_video.scored_videos(tmp_path / "data", size=(64, 32))
    clips, options = ClipOptions((9,), 16.0), {"resolution": 64, "device": "cpu"}
    make_cache(str(folder), videos, cache, clips=clips, **options)
    made = LatentCache(cache)
    ids = made.sample_ids()
    (frames, height, width), *others = set(made.buckets(ids))
    assert not others
    sample = sample_of("", skeleton_of(str(folder)), height=height, width=width, frames=frames)
    batch = made.batch(ids)
    stored = sum(batch[name].element_size() * batch[name].numel() for name in ("mean", "std"))
    found = caches(Options(model=str(folder)), sample)
    assert found.image * len(ids) == stored and str(found).endswith("MB a clip")
    assert sample.elements * len(ids) == batch["mean"].numel()


def test_long_prompts_count_their_chunks() -> None:
    sample = sample_of("sdxl", skeleton_of("sdxl"), resolution=1024)
    chunks = Options(model="sdxl", long_prompts="chunks", prompt_chunks=4)
    assert caches(chunks, sample).prompt == (4 * 77 * 2048 + 1280) * 2
    assert caches(Options(model="sdxl", prompt_chunks=4), sample).prompt == (77 * 2048 + 1280) * 2
    skeleton = skeleton_of("sdxl", chunks.loading)
    states = skeleton.inputs(skeleton.build(torch.bfloat16), 1, 64, 64)["encoder_hidden_states"]
    assert states.shape[1] == 4 * 77
    with pytest.raises(ValueError, match="long_prompts is chunks, which SD1.x"):
        caches(Options(model="flux-dev", long_prompts="chunks"), sample)


def test_the_chunks_are_those_of_a_runs_file(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('[model]\nlong_prompts = "chunks"\nprompt_chunks = 5\n')
    options = flags_of(load_config(tmp_path / "run.toml"))["options"]
    assert options.loading.chunks == 5
