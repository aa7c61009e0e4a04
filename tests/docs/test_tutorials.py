"""The tutorial of ratings runs as it stands, with smaller numbers; the first chain is the one that CI runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, text_of
from tglo.cli import main
from tglo.data.manifest import read_manifest
from tglo.shapes.__main__ import write_world
from tglo_site.needs import BLOCK

SMALLER = {"--count 4": "--count 2", "--steps 12": "--steps 1", "--draws 4": "--draws 1"}
TRAINING = "--optimizer.steps 2 --optimizer.micro_batch 4 --engine.device cpu --output.no-progress"


def commands(page: str) -> list[str]:
    """The commands of a page's blocks that this test runs, a line each."""
    blocks = [block for _, mark, _, block in BLOCK.findall(text_of(page)) if "tutorials" in mark]
    lines = "".join(blocks).replace("\\\n", " ")
    return re.findall(r"^\$ (.+)$", lines, re.MULTILINE)


def run(command: str) -> None:
    """Run a command in a small form."""
    for old, new in SMALLER.items():
        command = command.replace(old, new)
    program, *arguments = shlex.split(command)
    name = arguments[0]
    if command == "python -m tglo.shapes shapes":
        write_world(Path("shapes"), {"train": 5, "seen": 2, "unseen": 2})
    elif program == "head":
        lines = Path("shapes/prompts/train.txt").read_text().splitlines()
        Path("shapes/five.txt").write_text("\n".join(lines[: int(arguments[1])]))
    elif name == "rate":  # its page is tried in tests/rate; here a simulated person gives the stars
        manifest, output = arguments[1], arguments[arguments.index("--export") + 1]
        scorer = "tglo.shapes.rewards:stars"
        assert main(["score", manifest, "--scorer", scorer, "--output", output]) == 0
    else:
        more = TRAINING.split() if name == "train" else []
        assert program == "tglo" and main([*arguments, *more]) == 0, command


def test_the_chain_of_ratings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    found = commands("docs/tutorials/rate-your-images.md")
    assert len(found) == 9
    for command in found:
        run(command)
    assert len(read_manifest(Path("shapes/mine/rated.csv")).scores()) == 10
    assert (tmp_path / "shapes/my-run/export/model_index.json").is_file()
    assert (tmp_path / "shapes/my-evaluation/report.html").is_file()


def test_the_chain_of_the_start_is_the_readmes_which_ci_runs() -> None:
    chain = re.findall(r"^```bash\n(.*?)^```", text_of("README.md"), re.MULTILINE | re.DOTALL)[2]
    assert chain.startswith("python -m tglo.shapes shapes") and chain in text_of("docs/start.md")
