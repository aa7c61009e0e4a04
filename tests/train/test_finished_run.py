"""`tglo export` of a run: from the folder that its paths start at, and without what training has said already."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tglo import cli
from tglo.train import TrainConfig, train

Make = Callable[..., TrainConfig]


def test_relative_paths_start_at_the_current_folder(
    make_config: Make,
    sd15: Path,
    manifest: Path,
    caches: dict[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = tmp_path / "work"
    shutil.copytree(sd15, work / "base")
    shutil.copytree(manifest.parent, work / "photos")
    shutil.copytree(caches[sd15], work / "cache")
    monkeypatch.chdir(work)
    train(
        make_config(
            model={"path": "./base"},
            data={"manifest": "photos/scored.csv", "cache": "cache"},
            optimizer={"steps": 1},
            output={"folder": "runs/one", "export": False},
        )
    )
    monkeypatch.chdir(tmp_path)
    command = ["export", "work/runs/one", "--output", "exported"]
    assert cli.main(command) == 1
    told = capsys.readouterr().err
    assert (
        f"there is no base and no photos/scored.csv and no cache in {tmp_path}: the paths" in told
    )
    assert (
        f"are relative, and start at the folder that a command is run in. Run this in that folder (cd {work})"
        in told
    )
    assert not (tmp_path / "exported").exists()
    monkeypatch.chdir(work)
    shutil.move("base", "moved")
    assert cli.main(["export", "runs/one", "--output", "exported"]) == 1
    told = capsys.readouterr().err
    assert "in the folder that it was trained in, or bring back what is missing" in told


def test_it_does_not_say_again_what_training_said(
    make_config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(optimizer={"steps": 1}, output={"export": False})
    train(config)
    for flags, said in (([], False), (["-v"], True)):
        caplog.clear()
        command = ["export", str(config.output.folder), "--output", str(tmp_path / str(said))]
        assert cli.main([*flags, *command]) == 0
        assert ("threshold" in caplog.text) is said
        assert f"exported to {tmp_path / str(said)}" in caplog.text
