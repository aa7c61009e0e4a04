"""Every command in the pages is one that there is, with flags, keys and files that there are, and every block of
commands is run by a test or says what it needs.
"""

from __future__ import annotations

import functools
import re
import shlex
import tomllib
from collections.abc import Iterator

import pytest

from tests.docs.pages import PAGES, ROOT, text_of
from tglo.cli import COMMANDS, FLAGS_OF
from tglo.console.parsing import parse, read_only
from tglo.train import TrainConfig, load_config
from tglo.train.config_files import parse_config
from tglo_site.needs import BLOCK, NEEDS

OF_THEIR_OWN = {
    "docs/data.md": "docs/test_data.py",
    "docs/evaluation.md": "evaluate",
    "docs/exports.md": "commands/test_push.py",
    "docs/look.md": "look",
    "docs/rate.md": "rate",
    "docs/watch.md": "watch",
    "docs/start.md": "docs/test_tutorials.py",
    "README.md": "",  # .ci/run, which runs the blocks of bash as they stand
    "CONTRIBUTING.md": "",
}
"""Pages without marks -> the tests that run what is on them."""
MISTAKES = ("--scorr ink",)
ELSEWHERE = {"huber"}
"""An objective of the package that docs/plugins.md describes."""
NO_KEYS = {("engine", "backward")}
"""DeepSpeed's method."""
PROGRAMS = ("curl", "docker", "head", "hf", "mypy", "pip", "pre-commit", "pytest", "ruff", "sbatch")
FILE = re.compile(r"^(?:\./)?((?:examples|tests|benchmarks|docs|tglo)/[\w./-]+)$")


def blocks() -> Iterator[tuple[str, str, str, str, str]]:
    """Page, kind and text of the mark, language and lines of each block."""
    for page in PAGES:
        for kind, mark, language, lines in BLOCK.findall(text_of(page)):
            yield page, kind, mark, language, lines


def commands() -> Iterator[tuple[str, str]]:
    """Page and command, a line each."""
    for page, _, _, language, lines in blocks():
        for line in lines.replace("\\\n", " ").splitlines():
            if language == "bash":
                yield page, line
            elif line.startswith("$ "):
                yield page, line[2:]


COMMAND_LINES = sorted(set(commands()))


def words_of(line: str) -> list[str]:
    """A command's words, without what comes before tglo, and what its output goes through."""
    words = shlex.split(line, comments=True)
    for number, word in enumerate(words):
        if word in ("|", "&", "&&", ">") or word.startswith("2>"):
            words = words[:number]
            break
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[0] == "torchrun" and "tglo" in words:
        words = words[words.index("tglo") :]
    return words


@functools.cache
def run_of(path: str) -> TrainConfig:
    """The run's file that a command names, or any."""
    file = ROOT / path
    return load_config(file if file.is_file() else ROOT / "examples/configs/sdxl_lora.toml")


def check_tglo(words: list[str]) -> None:
    """Raise SystemExit unless tglo reads these arguments."""
    command, *rest = words
    if command == "--version" or command.startswith("--tyro-print-completion"):
        return
    assert command in COMMANDS, command
    path = rest[0] if rest and not rest[0].startswith("-") else ""
    if command == "train":
        parse(TrainConfig, rest[1:], "tglo train", default=run_of(path))
        return
    function = read_only(COMMANDS[command])
    if command in FLAGS_OF and path:
        function = functools.partial(function, **FLAGS_OF[command](run_of(path)))
        rest = rest[1:]
    parse(function, rest, f"tglo {command}")


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES)
def test_a_command_is_one_that_there_is(page: str, line: str) -> None:
    program, *rest = words = words_of(line)
    for word in words:
        if found := FILE.match(word):
            assert (ROOT / found[1]).exists(), f"there is no {found[1]}"
    if any(mistake in line for mistake in MISTAKES) or ELSEWHERE & set(rest):
        assert page in ("docs/commands.md", "docs/plugins.md")
    elif program == "tglo":
        check_tglo(rest)
    elif program == "python":
        flag, module = rest[0], rest[1] if len(rest) > 1 else ""
        if flag == "-m" and module.partition(".")[0] in ("benchmarks", "examples", "tests", "tglo"):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
        else:
            assert FILE.match(flag) or module in ("sphinx",), line
    else:
        assert program in PROGRAMS or FILE.match(program), program


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_what_it_needs(page: str) -> None:
    for place, kind, mark, _, lines in blocks():
        if place != page:
            continue
        if kind == "needs":
            assert mark in NEEDS, f"{mark} is none of {', '.join(NEEDS)}"
        elif kind == "ran":
            assert (ROOT / "tests" / mark).exists(), f"there is no tests/{mark}"
        else:
            assert page in OF_THEIR_OWN, f"<!-- needs: ... --> or <!-- ran: ... --> above\n{lines}"


@pytest.mark.parametrize("page", PAGES)
def test_keys_exist(page: str) -> None:
    """`section.key` in the text of a page, and the keys of a block of TOML that begins with a section."""
    tables = "model|data|objective|optimizer|engine|output"
    for table, key in re.findall(rf"`({tables})\.(\w+)(?: = [^`]*)?`", text_of(page)):
        known = getattr(TrainConfig(), table)
        assert hasattr(known, key) or (table, key) in NO_KEYS, f"there is no {table}.{key}"
    for block in re.findall(r"^```toml\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL):
        plain = tomllib.loads(block)
        if set(plain) <= {*tables.split("|"), "recipe", "seed"}:
            parse_config(plain)


def test_there_are_commands_and_tests_of_unmarked_ones() -> None:
    unmarked = {OF_THEIR_OWN[page] for page, kind, *_ in blocks() if not kind}
    assert all((ROOT / "tests" / place).exists() for place in unmarked)
    assert len(COMMAND_LINES) > 60 and (ROOT / ".ci/run").read_text().count("readme_block") == 2
