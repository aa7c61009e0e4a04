"""The site's reference has every flag, every key and every public name."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.docs.pages import ROOT, text_of
from tglo.cli import COMMANDS
from tglo.train import TrainConfig
from tglo.train.config_files import to_plain
from tglo.train.config_limits import LIMITS
from tglo_site import MARK, api, commands, docstrings, keys

PYTHON = text_of("docs/reference/python.md")
NAMED = re.findall(r"^<!-- generated: api ([\w.]+) -->$", PYTHON, re.MULTILINE)
MODULES = [name for name in NAMED if name.count(".") < 2]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
def test_every_flag_of_a_command(command: str) -> None:
    chapter = commands.chapter(command)
    help_text = (ROOT / f"tests/golden/help/{command}.txt").read_text()
    flags = set(re.findall(r"^  (--[a-z][\w.-]*)", help_text, re.MULTILINE))
    listed = set(re.findall(r"^`(--[a-z][\w.-]*)", chapter, re.MULTILINE))
    assert flags == listed
    said = re.findall(r"^: (.*)$", chapter, re.MULTILINE)
    assert all(text.strip(" :") and "  " not in text for text in said)


def test_a_flag_has_its_whole_text() -> None:
    _, about, groups = commands.read(commands.help_of("score"))
    assert about.startswith("Score a manifest's images or videos")
    assert groups[0].flags["PATH"].endswith("(required)")
    text = groups[1].flags["--batch-size INT"]
    assert text.startswith("Images or videos at once") and text.endswith("(default: 0)")
    assert [group.title for group in groups[2:]] == ["reading options", "videos options"]


def test_every_key_with_its_limit() -> None:
    page = keys.page()
    plain = to_plain(TrainConfig())
    nested = [
        f"{table}.{key}" for table, keys in plain.items() if isinstance(keys, dict) for key in keys
    ]
    for name in [*LIMITS, *nested]:
        if name.count(".") == 1 and isinstance(
            plain[name.split(".")[0]].get(name.split(".")[1]), dict
        ):
            continue  # a table of constants, such as objective.kto
        assert f"\n`{name}`\n: *" in f"\n{page}", name
    for name, limit in LIMITS.items():
        facts = page.split(f"`{name}`\n: *")[1].split("*\n")[0]
        assert str(limit) in facts, (name, facts)
    assert "`model.lora_rank`\n: *whole number; default `16`; from 1 to 4096*" in page


def test_every_public_name() -> None:
    assert MODULES[0] == "tglo" and len(MODULES) >= 6
    for module in MODULES:
        found = importlib.import_module(module)
        names = [name for name in found.__all__ if isinstance(getattr(found, name), type)]
        former = [name for name in names if getattr(found, name).__name__ != name]
        page = api.page(module)
        assert all((f":: {module}.{name}\n" in page) == (name not in former) for name in names)
    assert api.page("tglo").count(".. auto") == len(importlib.import_module("tglo").__all__) - 1
    named = "tglo.data.manifest.read_manifest"
    assert named in NAMED and f".. autofunction:: {named}\n" in api.page(named)


def test_a_docstring_is_what_it_is_in_a_terminal() -> None:
    lines = """Compute r = |a| * b_ of `x`s.

    r = |a| * b

    beta: strength, of
        two lines.

Args:
    x: (B,) the *first*.

    y, z (bool): others.

Returns:
    A number."""
    made = docstrings.restructured(lines.splitlines())
    text = "\n".join(made)
    assert text.startswith("Compute r = \\|a\\| \\* b\\_ of ``x``\\ s.\n\n::\n\n    r = |a| * b\n")
    assert "``x``\n    (B,) the \\*first\\*." in text and "``y, z (bool)``\n    others." in text
    assert ".. rubric:: Returns\n\nA number." in text


def test_marks_are_known() -> None:
    for page in ("cli", "config", "python"):
        assert MARK.search(text_of(f"docs/reference/{page}.md"))
