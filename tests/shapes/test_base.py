"""The shipped model is a plain diffusers folder that draws the scenes it is asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.pretraining.shapes import build_pipeline, draw
from tests.preloaded import run
from tglo import models
from tglo.settings import SamplingOptions
from tglo.shapes import BASE, rewards, scenes
from tglo.shapes.__main__ import SETS, write_world

PROMPTS = scenes.prompt_set("seen", 40)


@pytest.fixture(scope="module")
def family() -> Any:
    return models.load(BASE)


def test_folder_is_small_and_free_of_pickles() -> None:
    files = [path for path in BASE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}


def test_architecture_matches_what_pretraining_builds(family: Any) -> None:
    built = build_pipeline()
    assert {k: v.shape for k, v in built.unet.state_dict().items()} == {
        k: v.shape for k, v in family.denoiser.state_dict().items()
    }
    shipped = family.tokenizers[0]
    assert len(built.tokenizer) == len(shipped)
    assert [built.tokenizer.tokenize(p) for p in PROMPTS] == [shipped.tokenize(p) for p in PROMPTS]


def test_samples_show_most_of_what_is_asked_for(family: Any) -> None:
    images = family.generate(PROMPTS, range(40), SamplingOptions(12, 2.0), batch_size=40)
    others = PROMPTS[1:] + PROMPTS[:1]
    faithful = rewards.faithfulness(images, PROMPTS)
    assert faithful.mean() > 0.65
    assert faithful.mean() > rewards.faithfulness(images, others).mean() + 0.25
    assert rewards.vividness(images, PROMPTS).std() > 5


def test_latents_have_unit_deviation(family: Any) -> None:
    known = scenes.all_scenes(held_out=False)[::50]
    mean = family.encode(draw(list(known), np.random.default_rng(0)))["mean"]
    assert mean.shape == (len(known), 4, 8, 8)
    assert 0.85 < mean.std().item() < 1.15


def test_vae_keeps_the_drawing(family: Any) -> None:
    pixels = draw(list(scenes.all_scenes(held_out=True)[::70]), np.random.default_rng(1))
    mean = family.encode(pixels)["mean"]
    with torch.no_grad():
        back = family.vae.decode(mean / family.vae.config.scaling_factor).sample
    assert (back - pixels).square().mean().item() < 0.01


def test_world_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "shapes"
    command = [sys.executable, "-m", "tglo.shapes", str(folder)]
    made = run(command, capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    for name, count in SETS.items():
        lines = (folder / "prompts" / f"{name}.txt").read_text().splitlines()
        assert lines == scenes.prompt_set(name, count)
    assert (folder / "base" / "model_index.json").read_bytes() == (
        BASE / "model_index.json"
    ).read_bytes()
    (folder / "prompts" / "seen.txt").write_text("")
    (folder / "mine.txt").write_text("mine")
    write_world(folder)  # made anew, and nothing else touched
    assert (folder / "prompts" / "seen.txt").read_text().splitlines() == scenes.prompt_set(
        "seen", 64
    )
    assert (folder / "mine.txt").read_text() == "mine"
    for other in (BASE, folder / "mine.txt"):
        with pytest.raises(ValueError, match="holds something else; give another folder"):
            write_world(other)
