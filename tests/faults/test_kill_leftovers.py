"""What a kill leaves half-written is gone when the same command has run again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.train.conftest import caches, make_config, manifest, sd15, sdxl  # noqa: F401  (fixtures)
from tglo import cli
from tglo.files.leftovers import MACHINE
from tglo.rewards.scoring import score_file
from tglo.train import TrainConfig, train

Make = Callable[..., TrainConfig]


def plant(folder: Path, *names: str) -> None:
    """Temporary files as a process that was killed leaves them."""
    for name in names:
        (folder / f".{name}.{MACHINE}-0123456789abcdef.tmp").touch()


def leftovers(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.name.endswith((".tmp", ".old")))
    return sorted(os.path.relpath(path, folder) for path in found)


def test_of_a_run(make_config: Make) -> None:
    validation = {"validation_prompts": ["a flower"], "validation_every": 4, "validation_steps": 1}
    config = make_config(output={**validation, "save_every": 1})
    folder = config.output.folder
    train(config)
    checkpoints = folder / "checkpoints"
    plant(folder, "config.json")
    plant(folder / "samples", "step-00000004")
    plant(checkpoints, "latest")
    # Between the two renames of one that is replaced, or before an old one is quite removed.
    (checkpoints / ".step-00000002.old").mkdir()
    (checkpoints / "step-00000005.tmp").mkdir()
    assert len(leftovers(folder)) == 5
    train(config)
    assert leftovers(folder) == []


def test_of_an_evaluation(sd15: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a temple\na flower\n")
    out = tmp_path / "out"
    command = ["evaluate", "--base", str(sd15), "--prompts", f"own={tmp_path / 'prompts.txt'}",
               "--scorers", "ink", "--output", str(out), "--count", "2", "--steps", "1",
               "--resamples", "100", "--device", "cpu"]  # fmt: skip
    assert cli.main(command) == 0
    plant(out, "report.html")
    plant(out / "scores/base", "ink.json")
    plant(out / "diversity", "base.json")
    plant(out / "images/base", "manifest.csv")
    plant(out / "images/base/images", "x.png.batch")
    assert cli.main(command) == 0
    assert leftovers(out) == []


def test_of_scoring_but_nothing_else_in_the_users_folder(manifest: Path, tmp_path: Path) -> None:
    output = manifest.with_name("kill-scored.csv")
    plant(manifest.parent, output.name, f".{output.name}.partial", "notes.txt")
    (theirs,) = manifest.parent.glob(".notes.txt.*")
    score_file(manifest, "ink", output)
    assert leftovers(manifest.parent) == [theirs.name]
    theirs.unlink()
    output.unlink()
