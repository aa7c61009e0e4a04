"""What a run and a cache write can be read by whoever the umask lets read new files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.train.conftest import (  # noqa: F401  (fixtures)
    caches,
    make_config,
    manifest,
    sd15,
    sdxl,
)
from tglo import files
from tglo.cache.make import build
from tglo.files.modes import open_like
from tglo.train import TrainConfig, train


@pytest.fixture(params=[0o022, 0o007, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for file in folder.rglob("*"):
        if file.is_file():
            name = str(file.relative_to(folder))
            found.setdefault(file.stat().st_mode & 0o777, []).append(name)
    return found


def test_every_file_of_a_run_and_its_cache(
    make_config: Callable[..., TrainConfig],
    sd15: Path,
    manifest: Path,
    tmp_path: Path,
    umask: int,
) -> None:
    build(str(sd15), manifest, tmp_path / "cache", resolution=16, device="cpu")
    parts = {"optimizer": {"steps": 1, "ema_decay": 0.5}, "model": {"train": "full"}}
    parts |= {"output": {"validation_prompts": ["a cat"], "validation_every": 1}}
    config = make_config(data={"cache": str(tmp_path / "cache")}, **parts)
    run = train(config).folder
    assert (run / "export/unet/diffusion_pytorch_model.safetensors").is_file()
    for folder in (run, tmp_path / "cache"):
        assert list(modes(folder)) == [0o666 & ~umask], modes(folder)


def test_tensors_and_the_files_of_a_published_folder(tmp_path: Path, umask: int) -> None:
    files.write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)})
    files.write_json(tmp_path / "b.json", {})
    with files.writing_folder(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner/private").touch(0o600)
    assert list(modes(tmp_path)) == [0o666 & ~umask]


def test_a_program_stays_one(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    script = tmp_path / "script"
    script.touch(0o700)
    open_like(tmp_path, script)
    assert script.stat().st_mode & 0o777 == 0o744
