"""docs/data.md: its commands run as they stand, on small folders of the layouts that they are for."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.data.test_hub import hub
from tests.data.test_parquet_images import write
from tglo import cli
from tglo.data.manifest import read_manifest

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
SMALLER = {"tglo cache": ["--resolution", "16"], "tglo train": ["--optimizer.steps", "2"]}
__all__ = ["hub"]


def blocks(language: str) -> str:
    return "".join(re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL))


def make_images(folder: Path, names: list[str]) -> list[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(names))
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        pixels = random.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return [(folder / name).read_bytes() for name in names]


def make_layouts(work: Path, hub) -> None:
    scored = [f"{'10_garden/' * (n % 2)}sofa{n}_{n / 2}.png" for n in range(8)]
    plain = [f"{n}.png" for n in range(4)]
    for folder, names in (("cats", scored), ("dogs", plain)):
        make_images(work / folder, names)
        for name in names:
            (work / folder / name).with_suffix(".txt").write_text(f"a photo of {folder}")
    make_images(work / "photos", plain)
    lines = "".join(f"{name},a photo\n" for name in plain)
    (work / "photos/metadata.csv").write_text("file_name,text\n" + lines)
    images = make_images(work / "store", plain)
    (work / "list.csv").write_text("image,prompt\n" + lines)
    for n in range(2):
        name = f"data/train-{n:05d}-of-00002.parquet"
        text = {"text": ["a cat", "a dog"]}
        write(work / "shards" / name, images[2 * n : 2 * n + 2], **text)
        hub(name, lambda path, n=n, text=text: write(path, images[2 * n : 2 * n + 2], **text))


def test_the_commands_of_the_page(hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_layouts(tmp_path, hub)
    tiny.build_sd15(tmp_path / "sdxl")
    (tmp_path / "run.toml").write_text(blocks("toml"))
    commands = re.findall(r"^\$ (.+)$", blocks("console"), re.MULTILINE)
    assert len(commands) == 11
    for command in commands:
        program, *arguments = shlex.split(command, comments=True)
        more = SMALLER.get(f"{program} {arguments[0]}", [])
        if arguments[0] == "train":
            more = [*more, "--optimizer.micro_batch", "2", "--engine.device", "cpu"]
        assert program == "tglo" and cli.main([*arguments, *more]) == 0, command
    assert list((tmp_path / "cats-lora").glob("*.safetensors"))
    assert (tmp_path / "cats-run/export").is_dir() and (tmp_path / "hub-cache/cache.json").is_file()
    for name in (
        "dogs/scored.csv",
        "photos/scored.csv",
        "shards/data/scored.csv",
        "list-scored.csv",
    ):
        assert (
            len(read_manifest(tmp_path / name, root=tmp_path / "store" if "list" in name else None))
            == 4
        )
