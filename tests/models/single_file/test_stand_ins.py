"""The folders that stand for files: names, what was removed from them, and several processes at once."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.single_file.test_loading import same
from tests.models.test_variants import halved
from tglo import models
from tglo.models.single_file import source
from tglo.models.single_file.stand_in import place, write_stand_in
from tglo.settings import ModelOptions

Files = Callable[..., Path]
Options = Callable[[str], ModelOptions]


@pytest.mark.parametrize("letter", ["a", "ä", "絵"])
def test_names_as_long_as_a_disk_allows(
    letter: str, files: Files, options: Options, tmp_path: Path
) -> None:
    longest = letter * ((255 - len(".safetensors")) // len(letter.encode()))
    file = files("sd15").rename(tmp_path / f"{longest}.safetensors")
    first = models.resolve(file, options=options("sd15"))
    assert first.name.startswith(letter * 50) and len(first.name.encode()) < 170
    other = tmp_path / "folder" / (longest + letter)
    shutil.copytree(options("sd15").model_config, other)
    for weights in (other / "unet").glob("*.safetensors"):
        weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    models.load(other)


@pytest.mark.parametrize(
    "lost", ["model_index.json", "unet", "unet/config.json", "tokenizer", "single_file.json"]
)
def test_a_half_emptied_one_is_made_again(
    lost: str, files: Files, options: Options, caplog: pytest.LogCaptureFixture
) -> None:
    file = files("sd15")
    path = models.resolve(file, options=options("sd15"))
    there = {entry.relative_to(path) for entry in path.rglob("*")}
    gone = path / lost
    shutil.rmtree(gone) if gone.is_dir() and not gone.is_symlink() else gone.unlink()
    assert models.resolve(file, options=options("sd15")) == path
    assert {entry.relative_to(path) for entry in path.rglob("*")} == there
    assert "lacks files that it was made with, and is made again" in caplog.text
    same(models.load(file, options=options("sd15")).vae, models.load(path).vae)


def test_links_that_lead_elsewhere_are_made_again(
    files: Files, options: Options, tmp_path: Path
) -> None:
    file = files("sd15")
    link = models.resolve(file, options=options("sd15")) / "tokenizer"
    target = link.readlink()
    link.unlink()
    link.symlink_to(tmp_path)
    models.resolve(file, options=options("sd15"))
    assert link.readlink() == target


def _write(barrier: Any, path: Path, content: dict[str, Any], links: dict[str, Path]) -> None:
    barrier.wait()
    write_stand_in(path, content, links)


def test_several_processes_make_one_at_once(home: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for number in range(5):
        path, barrier = place("model", f"{number:012d}"), context.Barrier(4)
        content = {f"part{n}/config.json": {"n": n} for n in range(8)}
        links = {"tokenizer": tmp_path}
        running = [
            context.Process(target=_write, args=(barrier, path, content, links)) for _ in range(4)
        ]
        for process in running:
            process.start()
        for process in running:
            process.join(30)
        assert [process.exitcode for process in running] == [0] * 4
        assert not write_stand_in(path, content, links)  # it is whole
    assert len(list(source.home().iterdir())) == 5  # and nothing is left beside them


def test_a_damaged_file_of_a_variant_is_named_by_its_own_path(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = halved(folders["sd15"], tmp_path / "half")
    models.resolve(folder)
    file = folder / "unet/diffusion_pytorch_model.fp16.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"^{file} is damaged or no safetensors file"):
        models.resolve(folder)
