"""Errors in a line, and the extras that are missing."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from tglo.console.extras import EXTRAS
from tglo.console.failures import in_a_line

ROOT = Path(__file__).parents[2]
MODULES = {"pillow": "PIL", "scikit-learn": "sklearn"}
WITHOUT = """
import sys
from importlib.machinery import PathFinder
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        gone = name.split(".")[0] in {"diffusers", "PIL", "tqdm", "transformers"}
        return None if gone else super().find_spec(name, path, target)
sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
from tglo import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "demo", "--output", str(tmp_path / "d")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("tglo: tglo demo needs ") and done.stderr.count("\n") == 1
    assert 'is not installed: pip install ".[train]" in a checkout of tglo' in done.stderr


def test_every_extra_is_one_that_installs_the_module() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for module, extra in EXTRAS.items():
        names = [line.partition(">")[0] for line in extras[extra]]
        assert module in [MODULES.get(name, name) for name in names], module
    needed = {
        MODULES.get(line.partition(">")[0], line.partition(">")[0]) for line in extras["train"]
    }
    assert needed <= {*EXTRAS}


def test_messages_are_for_people() -> None:
    try:
        (ROOT / "absent").read_text()
    except OSError as error:
        assert in_a_line(error) == f"{ROOT}/absent: No such file or directory"
    assert in_a_line(RuntimeError("a\n b")) == "a b"
    assert in_a_line(ValueError()) == "ValueError: no message"
    assert in_a_line(ModuleNotFoundError("No module named 'x'", name="x")) == "No module named 'x'"
