"""Offloaded weights: the same images and embeddings, and one part at a time on the device.

There is no GPU here: the device is the CPU, and where it matters parts that wait go to the meta device, from
which nothing can be computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny, tiny_flow, tiny_video
from tglo import models
from tglo.generation.generate import generate_images
from tglo.models.execution.offloading import encode_by_blocks, offload
from tglo.settings import Offload, SamplingOptions

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "sdxl": tiny.build_sdxl,
    "amused": tiny.build_amused,
    "flux": tiny_flow.build_flux,
    "sd3": tiny_flow.build_sd3,
    "qwen-image": tiny_flow.build_qwen_image,
    "z-image": tiny_flow.build_z_image,
    "sana": tiny_flow.build_sana,
    "wan": tiny_video.build_wan,
    "ltx": tiny_video.build_ltx,
}
OPTIONS = SamplingOptions(2, 3.0, height=32, width=32)


def frames(made: Any) -> list[bytes]:
    """The pixels of an image, or of a video."""
    return [frame.tobytes() for frame in getattr(made, "frames", [made])]


def is_at(module: torch.nn.Module, device: str) -> bool:
    return {weights.device.type for weights in module.parameters()} == {device}


@pytest.mark.parametrize("how", ["model", "blocks"])
@pytest.mark.parametrize("kind", BUILDERS)
def test_offloaded_models_make_the_same_images(kind: str, how: Offload, tmp_path: Path) -> None:
    folder = BUILDERS[kind](tmp_path / "model")
    prompts, seeds = ["a cat", "two dogs"], [1, 2]
    plain = models.load(folder)
    options = replace(OPTIONS, frames=None if plain.default_frames is None else 9)
    expected = plain.generate(prompts, seeds, options)
    family = offload(models.load(folder), how, "cpu")
    for _ in range(2):
        found = family.generate(prompts, seeds, options)
        assert [frames(a) for a in found] == [frames(b) for b in expected]


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_part_leaves_the_device_when_another_is_used(kind: str, tmp_path: Path) -> None:
    family = models.load(BUILDERS[kind](tmp_path / "model"))
    parts = family.encoders.present()
    offload(family, "model", "cpu", home="meta")
    video = family.default_frames is not None
    options = replace(OPTIONS, guidance=0.0, frames=9 if video else None)
    family.generate(["a cat"], [1], options)  # with guidance the empty prompt comes first
    vae = parts.pop(family.vae_part)
    assert is_at(vae, "cpu") and is_at(family.denoiser, "meta")
    assert all(is_at(encoder, "meta") for encoder in parts.values())


def test_text_is_the_same_by_blocks(tmp_path: Path) -> None:
    for kind, build in BUILDERS.items():
        folder = build(tmp_path / kind)
        expected = list(models.load(folder).texts([["a cat", "b"], [""]]))
        family = encode_by_blocks(models.load(folder, denoiser=False))
        for found, wanted in zip(family.texts([["a cat", "b"], [""]]), expected, strict=True):
            assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_generate_takes_a_lora_with_it(tmp_path: Path) -> None:
    family = models.load(tiny_flow.build_flux(tmp_path / "model"))
    family.add_lora(2, 2.0)
    for name, weights in family.denoiser.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights.data, generator=torch.Generator().manual_seed(0))
    lora = family.save_lora(tmp_path / "lora")
    images: dict[str, bytes] = {}
    for how in ("none", "model", "blocks"):
        manifest = generate_images(
            str(tmp_path / "model"), ["a cat"], tmp_path / how, OPTIONS, lora=lora,
            device="cpu", offload=how,
        )  # fmt: skip
        images[how] = next((manifest.parent / "images").glob("*.png")).read_bytes()
    assert images["none"] == images["model"] == images["blocks"]
