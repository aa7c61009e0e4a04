"""Folders with weights of a variant, as published fp16 ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from tglo import models
from tglo.settings import ModelOptions


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def halved(folder: Path, target: Path, *, shards: bool = False) -> Path:
    """Save the folder in half precision under diffusers' names of a variant."""
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float16)
    more = {"max_shard_size": "200KB"} if shards else {}
    pipeline.save_pretrained(target, variant="fp16", **more)
    return target


@pytest.mark.parametrize("shards", [False, True])
def test_a_folder_of_a_variant_alone_is_read(
    kind: str,
    shards: bool,
    folders: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = halved(folders[kind], tmp_path / "half", shards=shards)
    with caplog.at_level("INFO"):
        ours = models.load(folder, dtype=torch.float16)
        models.resolve(folder)
    told = [r for r in caplog.records if "weights of a variant" in r.getMessage()]
    assert len(told) == 1 and "unet (fp16)" in told[0].getMessage()
    theirs = models.load(folders[kind], dtype=torch.float16)
    for name, tensor in theirs.denoiser.state_dict().items():
        assert torch.equal(ours.denoiser.state_dict()[name], tensor)
    ours.save(tmp_path / "export")
    assert not list((tmp_path / "export").rglob("*fp16*"))
    assert not [path for path in (tmp_path / "export").rglob("*") if path.is_symlink()]
    models.load(tmp_path / "export")


def test_beside_plain_weights_it_is_read_where_asked_for(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "both"
    shutil.copytree(folders["sd15"], folder)
    half = halved(folders["sd15"], tmp_path / "half")
    name = "unet/diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(half / name, folder / name)
    assert models.resolve(folder) == folder
    plain = models.load(folder).denoiser.state_dict()
    family = models.load(folder, options=ModelOptions(variant="fp16"))
    for name, tensor in family.denoiser.state_dict().items():
        assert torch.equal(tensor, plain[name].half().float())
    assert family.fingerprint() == models.load(folders["sd15"]).fingerprint()  # VAE and text: plain
    with pytest.raises(ValueError, match=r"variant 'bf16' .*there are fp16 besides.*leave it out"):
        models.load(folder, options=ModelOptions(variant="bf16"))
    unet = folder / "unet"
    (unet / "diffusion_pytorch_model.safetensors").rename(
        unet / "diffusion_pytorch_model.ema.safetensors"
    )
    with pytest.raises(ValueError, match=r"unet has weights of ema, fp16 and no others.*--variant"):
        models.load(folder)


def test_a_hub_model_with_a_variant_alone_is_downloaded_again(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = halved(folders["sd15"], tmp_path / "half")
    bare = tmp_path / "bare"
    shutil.copytree(half, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    asked = []

    def download(name: str, **options: object) -> str:
        asked.append(options.get("variant"))
        return str(half if options.get("variant") == "fp16" else bare)

    monkeypatch.setattr(DiffusionPipeline, "download", download)
    models.load("owner/model")
    models.load("owner/model", options=ModelOptions(variant="fp16"))
    assert asked == [None, "fp16", "fp16"]
    assert json.loads((half / "model_index.json").read_text())["unet"][1] == "UNet2DConditionModel"
