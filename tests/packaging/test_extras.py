"""What docs and messages tell to install exists, and can be had before tglo is on an index."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tglo.console.extras import EXTRAS, install
from tglo.doctor import PACKAGES

ROOT = Path(__file__).parents[2]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
FOLDERS = (".ci", ".github", "benchmarks", "csrc", "docs", "examples", "kernels", "tglo")
ENDINGS = {"", ".md", ".py", ".toml", ".ipynb", ".yml", ".sh", ".txt"}
IN_BRACKETS = re.compile(r"(?:\btglo|[\s\"'\\]\.)\[([a-z][a-z,]*)\]")
BY_CALL = re.compile(r"\binstall\([\"'](\w+)[\"']\)")
FROM_AN_INDEX = re.compile(r"pip install(?: -\S+| \S+\.txt)* [\\\"']*tglo(?![\w.-])")


def texts() -> Iterator[tuple[str, str]]:
    """Names and texts of all that tells people what to install."""
    paths = [path for path in ROOT.glob("*") if path.is_file()]
    for folder in FOLDERS:
        paths += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in paths:
        if path.suffix in ENDINGS and "__pycache__" not in path.parts:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


TEXTS = dict(texts())


def test_every_extra_that_is_named_exists() -> None:
    named = {
        (name, extra)
        for name, text in TEXTS.items()
        for pattern in (IN_BRACKETS, BY_CALL)
        for found in pattern.findall(text)
        for extra in found.split(",")
    }
    named |= {("tglo/console/extras.py", extra) for extra in EXTRAS.values()}
    named |= {("tglo/doctor.py", extra) for *_, extra in PACKAGES if extra}
    assert {"train", "test", "bench", "video", "bnb", "ocr"} <= {extra for _, extra in named}
    assert not {(name, extra) for name, extra in named if extra not in DECLARED}


def test_nothing_sends_people_to_an_index_for_tglo() -> None:
    """The name is not published: whatever an index has under it is someone else's."""
    sent = {name for name, text in TEXTS.items() if FROM_AN_INDEX.search(text)}
    assert not sent


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("pip install 'tglo[video]'", True),
        ('pip install -q "tglo[a,b]" x', True),
        ("pip install -U tglo", True),
        ('pip install -q -c constraints.txt \\"tglo[train]\\"', True),
        ("pip install tglo==1.0", True),
        ('pip install ".[video]" in a checkout of tglo', False),
        ("pip install --no-deps tglo-0.1.0.tar.gz", False),
    ],
)
def test_lines_that_would(line: str, found: bool) -> None:
    assert bool(FROM_AN_INDEX.search(line)) == found


def test_the_wording() -> None:
    assert install("video") == 'pip install ".[video]" in a checkout of tglo'


def test_ci_installs_the_tools_of_the_documentation_as_they_are_pinned() -> None:
    (line,) = re.findall(
        r"^pip install -q -c constraints.txt (.+?)  # the docs extra$", TEXTS[".ci/run"], re.M
    )
    declared = [re.split("[>=<]", name)[0] for name in DECLARED["docs"]]
    assert line.split() == [name for name in declared if not name.startswith("tglo")]
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert set(line.split()) <= set(pinned)
