from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from tests import tiny
from tglo import models


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> list[tuple]:
    """Stands for the hub: every id resolves to the tiny SD1.x folder, and calls are recorded."""
    calls: list[tuple] = []

    def download(name: str, **options: object) -> str:
        calls.append((name, options))
        return str(folders["sd15"])

    monkeypatch.setattr(DiffusionPipeline, "download", download)
    return calls


def test_local_folders_are_marked_as_such(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, downloads: list[tuple]
) -> None:
    folder = folders["sd15"]
    monkeypatch.chdir(folder.parent)
    names = (
        folder,
        str(folder),
        "./sd15",
        "path:sd15",
        f"path:{folder}",
        f"../{folder.parent.name}/sd15",
    )
    for name in names:
        assert models.resolve(name).resolve() == folder.resolve()
    assert not downloads


def test_a_hub_id_is_a_hub_id_also_where_a_folder_has_its_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    downloads: list[tuple],
    folders: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    tiny.build_sdxl(tmp_path / "owner" / "model")
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert models.resolve("owner/model", revision="abc") == folders["sd15"]
    name, options = downloads[0]
    assert name == "owner/model" and options["revision"] == "abc"
    assert options["trust_remote_code"] is False and options["use_safetensors"] is True
    assert any("write ./owner/model" in record.getMessage() for record in caplog.records)
    assert isinstance(models.load("owner/model"), models.StableDiffusion)
    assert isinstance(models.load("./owner/model"), models.StableDiffusionXL)


def test_names_that_are_neither_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"'model' is not a hub id.*write a folder as \./name"):
        models.resolve("model")
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match=r"for the local folder of that name write \./model"):
        models.resolve("model")
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        models.resolve("./model")
    (tmp_path / "owner" / "model").mkdir(parents=True)

    def unreachable(name: str, **options: object) -> str:
        raise OSError("no connection")

    monkeypatch.setattr(DiffusionPipeline, "download", unreachable)
    with pytest.raises(
        ValueError, match=r"cannot get 'owner/model'.*\./owner/model: no connection"
    ):
        models.resolve("owner/model")


def edit_index(source: Path, target: Path, **entries: object) -> Path:
    shutil.copytree(source, target)
    file = target / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
    return target


def test_unknown_pipelines_are_named_with_the_nearest(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = edit_index(folders["sd15"], tmp_path / "a", _class_name="StableDiffusionPipelines")
    with pytest.raises(ValueError, match=r"nearest: StableDiffusionPipeline.*supported are"):
        models.load(folder)


def test_code_that_a_model_brings_along_is_never_run(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = edit_index(folders["sd15"], tmp_path / "a", unet=["my_unet", "MyUNet"])
    (folder / "unet" / "my_unet.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match=r"my_unet\.MyUNet.*never run"):
        models.load(folder)
    folder = edit_index(folders["sd15"], tmp_path / "b", _class_name=["pipeline", "Mine"])
    with pytest.raises(ValueError, match=r"unknown pipeline class"):
        models.load(folder)


def test_pickled_weights_are_not_read(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["sd15"], tmp_path / "m")
    weights = tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"unet has no weights .* there are .*\.bin\. Pickles are"):
        models.resolve(tmp_path / "m")


def test_a_family_is_added_by_a_subclass_and_an_entry(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(models.StableDiffusion):
        name = "mine"

    monkeypatch.setitem(models.FAMILIES, "StableDiffusionPipeline", Mine)
    assert models.load(folders["sd15"]).fingerprint()["family"] == "mine"
