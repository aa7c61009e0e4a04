"""A run's export: what it needs is known before the first step, and nothing is left by a killed one."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.preloaded import Popen
from tests.train.conftest import (  # noqa: F401  (fixtures)
    caches,
    make_config,
    manifest,
    sd15,
    sdxl,
    write_toml,
)
from tglo import cli
from tglo.cache.make import build
from tglo.files import leftovers
from tglo.train import TrainConfig, train

Make = Callable[..., TrainConfig]


@pytest.fixture
def model(sd15: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sd15, tmp_path / "model")


@pytest.fixture
def make(make_config: Make, model: Path) -> Make:
    """make_config for the copied model, whose cache fits it."""
    return lambda **sections: make_config(
        **{**sections, "model": {"path": str(model), **sections.get("model", {})}}
    )


def test_an_absent_optional_part_is_told_before_the_first_step_and_nulled(
    make: Make, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = model / "model_index.json"
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index.write_text(json.dumps(json.loads(index.read_text()) | {"safety_checker": checker}))
    config = make(model={"train": "full"}, optimizer={"steps": 1})
    with caplog.at_level(logging.INFO, logger="tglo"):
        done = train(config)
    lines = [record.getMessage() for record in caplog.records]
    told = next(n for n, line in enumerate(lines) if "lists safety_checker" in line)
    assert told < next(n for n, line in enumerate(lines) if line.startswith("exported to"))
    assert done.export is not None
    exported = json.loads((done.export / "model_index.json").read_text())
    assert exported["safety_checker"] == [None, None]


@pytest.mark.parametrize("train_what", ["lora", "full"])
def test_an_absent_needed_part_is_told_before_the_first_step(
    make: Make, model: Path, train_what: str
) -> None:
    (model / "vae/diffusion_pytorch_model.safetensors").unlink()
    config = make(model={"train": train_what})
    with pytest.raises(ValueError, match="vae has no weights that are read"):
        train(config)
    assert not (config.output.folder / "metrics.jsonl").exists()


def test_what_a_killed_export_left_goes_with_the_next_run(make: Make) -> None:
    config = make(optimizer={"steps": 1})
    token = "0123456789abcdef"
    for name in ("export", "another"):
        left = config.output.folder / f".{name}.{leftovers.MACHINE}-{token}.tmp"
        left.mkdir(parents=True)
        (left / "half").write_text("half")
    train(config)
    assert not list(config.output.folder.glob(".*.tmp"))
    assert (config.output.folder / "export").is_dir()


def test_an_output_that_exists_is_refused_before_the_model_is_loaded(
    make: Make, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make(optimizer={"steps": 1})
    train(config)
    shutil.rmtree(model)
    assert cli.main(["export", str(config.output.folder), "--output", str(tmp_path)]) == 1
    assert "exists; choose another folder" in capsys.readouterr().err.splitlines()[-1]


def test_validation_images_that_are_not_finite_are_told_and_the_run_goes_on(
    make: Make,
    model: Path,
    manifest: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = model / "vae/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["decoder.conv_in.bias"][0] = torch.nan  # the encoder makes the cache
    save_file(weights, file, metadata={"format": "pt"})
    build(str(model), manifest, tmp_path / "cache", resolution=16, device="cpu")
    config = make(
        data={"cache": str(tmp_path / "cache")},
        optimizer={"steps": 2},
        output={"validation_prompts": ["a cat"], "validation_every": 1, "validation_steps": 1},
    )
    assert train(config).finished
    told = [r.getMessage() for r in caplog.records if "no validation images" in r.getMessage()]
    assert len(told) == 2 and "after step 1: " in told[0]
    assert "decoder.conv_in.bias of" in told[0]
    assert not list((config.output.folder / "samples").rglob("*.png"))


def test_of_two_exports_at_once_one_is_refused(make: Make, tmp_path: Path) -> None:
    config = make(optimizer={"steps": 1})
    train(config)
    output = tmp_path / "again"
    command = [sys.executable, "-m", "tglo.cli", "export", str(config.output.folder)]
    started = [
        Popen([*command, "--output", str(output)], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate()[1] for process in started]
    ended = sorted(zip((process.returncode for process in started), errors, strict=True))
    assert [status for status, _ in ended] == [0, 1]
    told = ended[1][1].splitlines()[-1]
    assert "is in use by another run" in told or f"{output} exists" in told
    assert (output / "pytorch_lora_weights.safetensors").is_file()
    assert not list(tmp_path.glob(".*.tmp"))
