"""A model in one file is the folder that it was written from, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from tests.models.helpers import example
from tglo import models
from tglo.settings import ModelOptions, SamplingOptions

Files = Callable[..., Path]
Options = Callable[[str], ModelOptions]


def same(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    one, other = ours.state_dict(), theirs.state_dict()
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


def test_weights_and_predictions_are_the_folders(
    kind: str, files: Files, options: Options, folders: dict[str, Path]
) -> None:
    ours = models.load(files(kind), options=options(kind))
    theirs = models.load(folders[kind])
    assert type(ours) is type(theirs) and not ours.denoiser.training
    same(ours.denoiser, theirs.denoiser)
    same(ours.vae, theirs.vae)
    for one, other in zip(ours.text_encoders, theirs.text_encoders, strict=True):
        same(one, other)
    assert ours.schedule.fingerprint() == theirs.schedule.fingerprint()
    draws = [example(family) for family in (ours, theirs)]
    with torch.no_grad():
        one, other = (
            family.predict(family.denoiser, draw)
            for family, draw in zip((ours, theirs), draws, strict=True)
        )
    assert torch.equal(one, other)
    sampling = SamplingOptions(steps=2, height=16, width=16, guidance=3)
    pictures = [family.generate(["seven"], [3], sampling)[0] for family in (ours, theirs)]
    assert pictures[0].tobytes() == pictures[1].tobytes()


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_files(stored: torch.dtype, files: Files, options: Options) -> None:
    file = files("sdxl", dtype=stored)
    whole = models.load(file, options=options("sdxl"))
    assert whole.denoiser.dtype == torch.float32
    half = models.load(file, options=options("sdxl"), dtype=stored)
    assert half.denoiser.dtype == stored and half.text_encoders[1].dtype == stored
    assert half.vae.dtype == torch.float32  # it would overflow
    for name, tensor in half.denoiser.state_dict().items():
        assert torch.equal(whole.denoiser.state_dict()[name], tensor.float()), name


def test_encoders_in_turn_and_a_denoiser_alone(files: Files, options: Options) -> None:
    file = files("sdxl")
    encoding = models.load(file, options=options("sdxl"), denoiser=False)
    whole = models.load(file, options=options("sdxl"))
    prompts = ["a seven", ""]
    for name, tensor in encoding.text(prompts).items():
        assert torch.equal(tensor, whole.text(prompts)[name])
    training = models.load(file, options=options("sdxl"), encoders=False)
    assert training.vae is None and training.text_encoders[1] is None
    same(training.denoiser, whole.denoiser)


def test_parts_that_the_file_lacks_are_the_configurations(
    files: Files, options: Options, folders: dict[str, Path]
) -> None:
    family = models.load(files("sd15", without=("vae", "text_encoder")), options=options("sd15"))
    theirs = models.load(folders["sd15"])
    same(family.vae, theirs.vae)
    same(family.denoiser, theirs.denoiser)


def test_older_names_of_the_text_encoder(files: Files, options: Options, tmp_path: Path) -> None:

    file = files("sd15")
    shorter = {
        n.replace("transformer.text_model.", "transformer."): t for n, t in load_file(file).items()
    }
    old = tmp_path / "old.safetensors"
    save_file(shorter, old)
    one, other = (models.load(path, options=options("sd15")) for path in (file, old))
    same(one.text_encoders[0], other.text_encoders[0])


def test_an_export_is_a_complete_folder(
    kind: str, files: Files, options: Options, folders: dict[str, Path], tmp_path: Path
) -> None:
    family = models.load(files(kind), options=options(kind))
    family.save(tmp_path / "export")
    exported, theirs = (models.load(path) for path in (tmp_path / "export", folders[kind]))
    same(exported.denoiser, theirs.denoiser)
    same(exported.vae, theirs.vae)
    same(exported.text_encoders[-1], theirs.text_encoders[-1])
    plain = DiffusionPipeline.from_pretrained(tmp_path / "export")
    image = plain("seven", num_inference_steps=2, height=16, width=16, output_type="np").images
    assert image.shape == (1, 16, 16, 3)
    assert not list((tmp_path / "export").rglob("single_file.json"))
    assert not [path for path in (tmp_path / "export").rglob("*") if path.is_symlink()]


def test_an_export_of_a_file_in_half_precision_loads_with_default_arguments(
    files: Files, options: Options, tmp_path: Path
) -> None:
    models.load(files("sdxl", dtype=torch.float16), options=options("sdxl")).save(
        tmp_path / "export"
    )
    plain = DiffusionPipeline.from_pretrained(tmp_path / "export")
    plain("seven", num_inference_steps=1, height=16, width=16)
    again = models.load(tmp_path / "export", dtype=torch.float16)
    same(
        again.text_encoders[1],
        models.load(files("sdxl"), options=options("sdxl"), dtype=torch.float16).text_encoders[1],
    )


def test_a_lora_is_exported_and_loaded(files: Files, options: Options, tmp_path: Path) -> None:
    family = models.load(files("sd15"), options=options("sd15"))
    family.add_lora(2, 2.0)
    with torch.no_grad():
        for name, parameter in family.denoiser.named_parameters():
            if "lora_" in name:
                parameter.fill_(0.01)
    family.save_lora(tmp_path / "lora")
    family.save(tmp_path / "merged")
    again = models.load(files("sd15"), options=options("sd15"))
    again.load_lora(tmp_path / "lora")
    merged = models.load(tmp_path / "merged")
    draw = example(again)
    with torch.no_grad():
        one, other = (f.predict(f.denoiser, draw) for f in (again, merged))
    assert (one - other).abs().max() < 1e-4 * one.abs().max()


def test_caches_are_tied_to_the_tensors(files: Files, options: Options) -> None:
    family = models.load(files("sd15"), options=options("sd15"))
    before = family.fingerprint()
    file = files("sd15", metadata={"modelspec.title": "another name"})
    assert models.load(file, options=options("sd15")).fingerprint() == before
    weight = {"first_stage_model.post_quant_conv.bias": torch.ones(4)}
    file = files("sd15", more=weight)
    after = models.load(file, options=options("sd15")).fingerprint()
    assert [name for name in before if before[name] != after[name]] == ["vae"]


def test_what_it_stands_in_is_made_again_when_the_file_changes(
    files: Files, options: Options
) -> None:
    first = models.resolve(files("sd15"), options=options("sd15"))
    assert models.resolve(files("sd15", dtype=torch.float16), options=options("sd15")) != first
    assert models.resolve(first).samefile(first)
    mark = json.loads((first / "single_file.json").read_text())
    assert set(mark["parts"]) == {"unet", "vae", "text_encoder"}


def test_a_folder_from_elsewhere_names_no_files_outside(
    files: Files, options: Options, tmp_path: Path
) -> None:
    """Only folders of tglo's own making stand for files: others could have any file read and copied."""
    import shutil

    path = models.resolve(files("sd15"), options=options("sd15"))
    shutil.copytree(path, tmp_path / "copy", symlinks=True)
    with pytest.raises(ValueError, match="outside the model folder|has no weights"):
        models.resolve(tmp_path / "copy")


def test_a_text_encoder_that_lacks_tensors_is_told(
    files: Files, folders: dict[str, Path], options: Options
) -> None:
    file = files("sdxl")
    whole = load_file(file)
    del whole["conditioner.embedders.1.model.transformer.resblocks.1.ln_2.bias"]
    save_file(whole, file)
    with pytest.raises(ValueError, match=r"^the text_encoder_2 in .* lacks .*layer_norm2\.bias"):
        models.load(file, options=options("sdxl"))


@pytest.mark.parametrize("blocked", ["", "tglo/single_files"])
def test_a_cache_folder_that_cannot_be_written_is_told(
    files: Files, options: Options, home: Path, blocked: str
) -> None:
    place = home / blocked
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("a file")
    with pytest.raises(OSError, match="set XDG_CACHE_HOME to a folder"):
        models.load(files("sd15"), options=options("sd15"))
    place.unlink()
    models.load(files("sd15"), options=options("sd15"))
