"""The sizes of caches that `tglo plan` prints, beside those of caches themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import tiny, tiny_flow
from tglo import models
from tglo.cache.size import text_bytes
from tglo.models.registry import skeleton_of
from tglo.plan.caches import caches
from tglo.plan.options import Options

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
    found = caches(Options(model=model, prompts=100_000), 1024)
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
    tokens = caches(Options(model=str(folder)), 64).tokens or 0
    expected = text_bytes(family.text_shapes(), tokens, torch.bfloat16)
    assert caches(Options(model=str(folder)), 64).prompt == expected


def test_the_line_says_for_how_many_prompts() -> None:
    assert str(caches(Options(model="flux-dev", prompts=100_000), 1024)) == (
        "cache: text in bf16 4.2 MB a prompt, 420 GB for 100,000 prompts; fp32 takes twice that; "
        "latents 2.1 MB an image"
    )
