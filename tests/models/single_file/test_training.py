"""A cache and a training from one file are those from the folder, bit for bit."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests import tiny_files
from tglo.cache.latents import LatentCache
from tglo.cli import main
from tglo.data.errors import CacheError
from tglo.models import load
from tglo.settings import ModelOptions


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    with (tmp_path / "scored.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "image", "score"])
        for number in range(4):
            Image.effect_noise((16, 16), 40 + number).convert("RGB").save(
                tmp_path / f"{number}.png"
            )
            writer.writerow([f"a picture {number}", f"{number}.png", number])
    return tmp_path / "scored.csv"


def command(arguments: list[str]) -> None:
    assert main(arguments) in (0, None)


def run(model: str, folder: Path, manifest: Path, *more: str) -> None:
    folder.mkdir()
    config = folder / "run.toml"
    config.write_text(
        f"""
        [model]
        path = "{model}"
        {more[0] if more else ""}
        [data]
        manifest = "{manifest}"
        cache = "{folder / "cache"}"
        [objective]
        reference = "cached"
        [optimizer]
        steps = 2
        micro_batch = 2
        [output]
        folder = "{folder / "out"}"
        validation_prompts = ["a picture"]
        validation_every = 2
        validation_steps = 2
        """
    )
    command(["cache", str(config), "--resolution", "16", "--draws", "2", "--batch-size", "2"])
    command(["train", str(config), "--engine.device", "cpu"])


def test_cache_and_training_are_those_of_the_folder(
    manifest: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    file = tiny_files.write_file(folders["sdxl"], tmp_path / "x.safetensors", "sdxl")
    run(str(folders["sdxl"]), tmp_path / "folder", manifest)
    run(str(file), tmp_path / "file", manifest, f'config = "{folders["sdxl"]}"')
    for place in ("cache", "cache/reference"):
        ours = {p.name: load_file(p) for p in (tmp_path / "file" / place).glob("*-0*.safetensors")}
        theirs = {
            p.name: load_file(p) for p in (tmp_path / "folder" / place).glob("*-0*.safetensors")
        }
        assert len(ours) == len(theirs) > 0
        flat, other = (
            {(f.split("-")[0], n): t for f, found in part.items() for n, t in found.items()}
            for part in (ours, theirs)
        )
        assert flat.keys() == other.keys()
        assert all(torch.equal(flat[key], other[key]) for key in flat)
    (one,), (two,) = (
        list((tmp_path / n / "out/export").glob("*.safetensors")) for n in ("file", "folder")
    )
    assert load_file(one).keys() == load_file(two).keys()
    assert all(torch.equal(t, load_file(two)[n]) for n, t in load_file(one).items())
    text = (tmp_path / "file/out/export/README.md").read_text()
    assert 'StableDiffusionXLPipeline.from_single_file("x.safetensors")' in text
    assert 'model.config = "sdxl"' in text and str(folders["sdxl"]) not in text
    pictures = [next((tmp_path / n / "out/samples").rglob("*.png")) for n in ("file", "folder")]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    # Each cache is tied to what it was made from.
    family = load(folders["sdxl"])
    with pytest.raises(CacheError, match="vae"):
        LatentCache(tmp_path / "file" / "cache").check(family.fingerprint())
    again = load(file, options=ModelOptions(str(folders["sdxl"])))
    LatentCache(tmp_path / "file" / "cache").check(again.fingerprint())


def test_commands_take_a_file(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a picture\nanother\n")
    file = tiny_files.write_file(folders["sd15"], tmp_path / "a.safetensors", "sd15")
    sampling = ["--steps", "1", "--height", "16", "--width", "16", "--device", "cpu"]
    prompts = ["--prompts", str(tmp_path / "prompts.txt")]
    for model, name in ((file, "file"), (folders["sd15"], "folder")):
        command(
            [
                *("generate", "--model", str(model), *prompts, "--output", str(tmp_path / name)),
                *(*sampling, "--model-config", str(folders["sd15"])),
            ]
        )
    pictures = [sorted((tmp_path / n / "images").glob("*.png")) for n in ("file", "folder")]
    for one, two in zip(*pictures, strict=True):
        assert one.read_bytes() == two.read_bytes()
    command(
        [
            *("evaluate", "--base", str(folders["sd15"]), "--models", f"mine={file}"),
            *("--prompts", f"some={tmp_path / 'prompts.txt'}", "--scorers", "sharpness"),
            *("--output", str(tmp_path / "evaluation"), "--count", "1", "--resamples", "100"),
            *(*sampling, "--model-config", str(folders["sd15"])),
        ]
    )
    assert (tmp_path / "evaluation" / "report.html").is_file()
