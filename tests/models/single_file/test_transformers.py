"""FLUX, SD3 and Wan: the transformer from one file in its authors' layout, all else from a diffusers folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.loaders import single_file_utils

from tests import tiny_flow, tiny_video
from tests.models.single_file.test_loading import same
from tests.tiny_flow_files import (
    Tensors,
    flux,
    stable_diffusion_3,
    wan,
    write_transformer,
    write_whole,
)
from tglo import models
from tglo.settings import ModelOptions, SamplingOptions

Layout = Callable[[Tensors], Tensors]
KINDS: dict[str, tuple[Callable[[Path], Path], Layout]] = {
    "flux-dev": (tiny_flow.build_flux, flux),
    "flux-schnell": (lambda folder: tiny_flow.build_flux(folder, guidance=False), flux),
    "sd3": (tiny_flow.build_sd3, stable_diffusion_3),
    "sd35-medium": (lambda folder: tiny_flow.build_sd3(folder, medium=True), stable_diffusion_3),
    "wan": (tiny_video.build_wan, wan),
}


@pytest.fixture(autouse=True)
def narrow_flux(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' converter of FLUX has the width of the published models in it: here the tiny one's, 32."""
    code = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers.__code__
    assert 3072 in code.co_consts
    narrow = code.replace(co_consts=tuple(32 if c == 3072 else c for c in code.co_consts))
    monkeypatch.setattr(
        single_file_utils.convert_flux_transformer_checkpoint_to_diffusers, "__code__", narrow
    )


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_transformer_is_the_folders(kind: str, prefix: str, tmp_path: Path) -> None:
    build, layout = KINDS[kind]
    folder = build(tmp_path / "base")
    other = build(tmp_path / "other")  # all but the transformer is the same
    for weights in (other / "transformer").glob("*.safetensors"):
        weights.write_bytes(b"nothing reads this")
    file = write_transformer(folder, tmp_path / "model.safetensors", layout, prefix)
    ours = models.load(file, options=ModelOptions(str(other)))
    theirs = models.load(folder)
    assert type(ours) is type(theirs)
    same(ours.denoiser, theirs.denoiser)
    draw = theirs.example(2, 32, 32)
    one, two = (family.predict(family.denoiser, draw) for family in (ours, theirs))
    assert torch.equal(one, two)


@pytest.mark.parametrize("kind", ["flux-dev", "sd3", "sd35-medium"])
def test_a_whole_checkpoint_has_its_vae_and_text_encoders(kind: str, tmp_path: Path) -> None:
    build, layout = KINDS[kind]
    folder, other = build(tmp_path / "base"), build(tmp_path / "other")
    for weights in other.rglob("*.safetensors"):
        weights.write_bytes(b"nothing reads this")
    file = write_whole(folder, tmp_path / "model.safetensors", layout)
    ours, theirs = models.load(file, options=ModelOptions(str(other))), models.load(folder)
    same(ours.denoiser, theirs.denoiser)
    same(ours.vae, theirs.vae)
    for one, two in zip(ours.text_encoders, theirs.text_encoders, strict=True):
        same(one, two)
    texts = [family.text(["a seven"]) for family in (ours, theirs)]
    torch.testing.assert_close(*texts)


@pytest.mark.parametrize("kind", ["flux-dev", "sd3", "wan"])
def test_sampled_exported_and_loaded_again(kind: str, tmp_path: Path) -> None:
    build, layout = KINDS[kind]
    folder = build(tmp_path / "base")
    file = write_transformer(folder, tmp_path / "model.safetensors", layout)
    family = models.load(file, options=ModelOptions(str(folder)))
    frames = {} if family.default_frames is None else {"frames": 1}
    sampling = SamplingOptions(steps=1, guidance=3, height=16, width=16, **frames)
    assert len(family.generate(["seven"], [3], sampling)) == 1
    family.add_lora(2, 2.0)
    family.save_lora(tmp_path / "lora")
    family.save(tmp_path / "whole")
    same(models.load(tmp_path / "whole").denoiser, models.load(folder).denoiser)


def test_what_such_a_file_lacks_is_named_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tiny_flow.build_flux(tmp_path / "base")
    file = write_transformer(folder, tmp_path / "model.safetensors", flux)
    told = (
        r"\(FLUX.1-dev\) does not hold .*text_encoder_2.*black-forest-labs/FLUX.1-dev.*model.config"
    )
    with pytest.raises(ValueError, match=told):
        models.resolve(file)
    other = tiny_flow.build_sd3(tmp_path / "sd3")
    with pytest.raises(ValueError, match=r"is of StableDiffusion3Pipeline, .*FLUX.1-dev"):
        models.resolve(file, options=ModelOptions(str(other)))
    wide = tiny_flow.build_flux(tmp_path / "schnell", guidance=False)
    with pytest.raises(
        ValueError, match=r"has an embedding of the guidance, and .*schnell is .*model.config"
    ):
        models.load(file, options=ModelOptions(str(wide)))
