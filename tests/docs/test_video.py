"""docs/video.md: the commands of its small world run as they stand, with smaller numbers."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tglo import cli
from tglo.data.manifest import read_manifest

ROOT = Path(__file__).parents[2]
SMALLER = {
    "--count 30": "--count 2",
    "--count 10": "--count 2",
    "--steps 12": "--steps 2",
    "--draws 8": "--draws 2",
}
TRAINING = ["--optimizer.steps", "2", "--optimizer.micro_batch", "8", "--output.save_every", "2"]


def commands() -> list[str]:
    """The commands of the section, a line each."""
    page = (ROOT / "docs" / "video.md").read_text()
    section = page.split("## A small world")[1].split("\n## ")[0]
    block = section.split("```console\n")[1].split("```")[0]
    return re.findall(r"^\$ (.+)$", block.replace("\\\n", " "), re.MULTILINE)


def test_the_small_worlds_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    found = commands()
    assert all(any(old in command for command in found) for old in SMALLER)
    for command in found:
        for old, new in SMALLER.items():
            command = command.replace(old, new)
        program, *arguments = shlex.split(command)
        assert program == "tglo"
        more = TRAINING if arguments[0] == "train" else []
        assert cli.main([*arguments, *more]) == 0, command
    scored = read_manifest(tmp_path / "moving" / "data" / "scored.csv")
    assert len(scored.rows) == 40 and all(row.image.endswith(".mp4") for row in scored.rows)
    assert scored.scores().std() > 0.1
    for name in ("tgo", "sft"):
        assert (tmp_path / "moving" / name / "export" / "model_index.json").exists()
    rows = (tmp_path / "moving" / "evaluation" / "samples.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 40  # base, TGO and SFT: two of each prompt
    assert rows[0].endswith(
        ":boldness,examples.moving_digits.rewards:legibility,examples.moving_digits.rewards:motion"
    )
    assert (tmp_path / "moving" / "evaluation" / "report.html").exists()
