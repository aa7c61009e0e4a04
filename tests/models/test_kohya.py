"""LoRAs in kohya's layout make the images of those in diffusers'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file

from tests import tiny_flow, tiny_video
from tests.models.helpers import example, perturb
from tests.models.test_export import LORA_FILE, render
from tglo import models
from tglo.models import lora

OTHERS: dict[str, Callable[[Path], Path]] = {
    "flux": tiny_flow.build_flux,
    "qwen-image": tiny_flow.build_qwen_image,
    "z-image": tiny_flow.build_z_image,
    "wan": tiny_video.build_wan,
}


@pytest.mark.parametrize("alpha", [2.0, 5.0])
def test_the_same_images(
    kind: str, family: models.Family, folders: dict[str, Path], tmp_path: Path, alpha: float
) -> None:
    family.add_lora(2, alpha)
    perturb(family.denoiser, scale=0.3)
    images = []
    for layout in ("diffusers", "kohya"):
        folder = family.save_lora(tmp_path / layout, layout=layout)
        pipeline = DiffusionPipeline.from_pretrained(folders[kind])
        before = render(pipeline)
        pipeline.load_lora_weights(folder)
        images.append(render(pipeline))
        assert not torch.equal(images[-1], before)
    assert torch.equal(*images)


def test_names_are_those_of_diffusers_converter_and_alpha_is_the_loras(
    load: Callable[..., models.Family], tmp_path: Path
) -> None:
    family = load("sdxl")
    family.add_lora(2, 5.0)
    perturb(family.denoiser, scale=0.3)
    weights = load_file(family.save_lora(tmp_path / "lora", layout="kohya") / LORA_FILE)
    peft = {f"unet.{name}": w for name, w in lora.state_dict(family.denoiser).items()}
    expected = convert_state_dict_to_kohya(peft)
    assert set(weights) == set(expected)
    for name, weight in weights.items():
        wanted = torch.tensor(5.0) if name.endswith(".alpha") else expected[name]
        assert torch.equal(weight, wanted), name
    with safe_open(tmp_path / "lora" / LORA_FILE, "pt") as file:
        told = file.metadata()
    assert (told["ss_network_dim"], told["ss_network_alpha"]) == ("2", "5.0")


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_other_models_whose_files_diffusers_reads(name: str, tmp_path: Path) -> None:
    base = OTHERS[name](tmp_path / "base")
    family, again = models.load(base), models.load(base)
    family.add_lora(2, 5.0)
    perturb(family.denoiser, scale=0.3)
    draw = family.example(2, 32, 32)
    before = family.predict(again.denoiser, draw)
    folder = family.save_lora(tmp_path / "lora", layout="kohya")
    again.load_lora(folder)
    expected = family.predict(family.denoiser, draw)
    torch.testing.assert_close(family.predict(again.denoiser, draw), expected)
    assert not torch.allclose(before, expected)


def test_a_model_without_such_a_reader_is_refused(tmp_path: Path) -> None:
    family = models.load(tiny_flow.build_sd3(tmp_path / "base"))
    family.add_lora(2, 2.0)
    with pytest.raises(ValueError, match="does not read back for StableDiffusion3Pipeline"):
        family.save_lora(tmp_path / "lora", layout="kohya")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_file_in_half_precision_is_half_as_large(
    load: Callable[..., models.Family], tmp_path: Path
) -> None:
    family = load("sd15")
    family.add_lora(2, 2.0)
    perturb(family.denoiser, scale=0.3)
    for layout in ("diffusers", "kohya"):
        folder = family.save_lora(tmp_path / layout, layout=layout, dtype=torch.float16)
        weights = load_file(folder / LORA_FILE)
        dtypes = {w.dtype for n, w in weights.items() if not n.endswith(".alpha")}
        assert dtypes == {torch.float16}
        again = load("sd15")
        again.load_lora(folder)
        draw = example(family)
        answers = [family.predict(f.denoiser, draw) for f in (family, again)]
        torch.testing.assert_close(*answers, atol=0.01, rtol=0.01)


STRENGTHS = {
    "of each layer": {"rank_pattern": {"to_k": 3}, "alpha_pattern": {"to_k": 1.5, "to_v": 7.0}},
    "rank-stabilised": {"use_rslora": True},
}


@pytest.mark.parametrize("strengths", STRENGTHS)
def test_other_strengths_than_one_alpha(
    strengths: str, load: Callable[..., models.Family], folders: dict[str, Path], tmp_path: Path
) -> None:
    family = load("sd15")
    family.denoiser.requires_grad_(False)
    targets = ["to_q", "to_k", "to_v"]
    config = LoraConfig(r=2, lora_alpha=4, target_modules=targets, **STRENGTHS[strengths])
    lora.attach(family.denoiser, config)
    perturb(family.denoiser, scale=0.3)
    images = []
    for layout in ("diffusers", "kohya"):
        pipeline = DiffusionPipeline.from_pretrained(folders["sd15"])
        pipeline.load_lora_weights(family.save_lora(tmp_path / layout, layout=layout))
        images.append(render(pipeline))
    torch.testing.assert_close(*images)


@pytest.mark.parametrize("kind", ["use_dora", "lora_bias"])
def test_what_the_layout_does_not_have(
    kind: str, load: Callable[..., models.Family], tmp_path: Path
) -> None:
    family = load("sd15")
    family.denoiser.requires_grad_(False)
    lora.attach(family.denoiser, LoraConfig(r=2, target_modules=["to_q"], **{kind: True}))
    with pytest.raises(ValueError, match="use layout = diffusers"):
        family.save_lora(tmp_path / "lora", layout="kohya")
    assert not (tmp_path / "lora").exists()


def test_biases_that_cannot_be_merged_are_told_with_the_layout_that_has_them(
    load: Callable[..., models.Family], tmp_path: Path
) -> None:
    family = load("sd15")
    family.denoiser.requires_grad_(False)
    lora.attach(family.denoiser, LoraConfig(r=2, target_modules=["to_q"], lora_bias=True))
    told = r"layout is merged, .* such as .*attn1.to_q, have none .*; use layout = diffusers"
    with pytest.raises(ValueError, match=told):
        family.save(tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
    assert family.save_lora(tmp_path / "lora").is_dir()
