"""The commands and their flags, from the help that the installed command line prints."""

from __future__ import annotations

import contextlib
import io
import os
import re
from dataclasses import dataclass, field
from unittest import mock

from tglo.cli import COMMANDS, main
from tglo.console.parsing import FLAG

WIDTH = 100
TRAIN = "Every key of the [configuration](config.md) is a flag: `--optimizer.learning-rate 1e-5`."
HEAD = re.compile(rf"^  ({FLAG}\S*(?:, {FLAG})*|[A-Z][A-Z:]*)((?: [^ ]+)*)(?:  +(\S.*))?$")


@dataclass
class Group:
    """Flags under one heading, each with what is said of it."""

    title: str
    text: str = ""
    flags: dict[str, str] = field(default_factory=dict)


def help_of(command: str) -> str:
    """Return what `tglo COMMAND --help` prints."""
    said = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": str(WIDTH), "NO_COLOR": "1"}),
        contextlib.redirect_stdout(said),
        contextlib.suppress(SystemExit),
    ):
        main([command, "--help"])
    return said.getvalue()


def read(text: str) -> tuple[str, str, list[Group]]:
    """Return usage, description and groups of flags of a help text."""
    usage, *rest = text.split("\n\n", 1)
    about, _, listed = rest[0].partition("\n positional arguments ")
    if not listed:
        about, _, listed = rest[0].partition("\n options ")
        listed = " options \n" + listed.split("\n", 1)[1]
    else:
        listed = " positional arguments \n" + listed.split("\n", 1)[1]
    groups: list[Group] = []
    flag = ""
    for line in map(str.rstrip, listed.splitlines()):
        if not line.strip(" -"):
            continue
        if re.match(r"^ \S", line):
            groups.append(Group(line.strip()))
            flag = ""
        elif found := HEAD.match(line):
            flag = found[1] + found[2]
            groups[-1].flags[flag] = found[3] or ""
        elif flag:
            groups[-1].flags[flag] += " " + line.strip()
        else:
            groups[-1].text += " " + line.strip()
    return " ".join(usage.split()).removeprefix("usage: "), about.strip(), groups


def plain(text: str) -> str:
    """Return text in which nothing but pairs of backquotes is markup."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    parts[::2] = [re.sub(r"([\\`*_<>\[\]|~])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def page() -> str:
    """Return the chapters of all commands."""
    return "\n".join(chapter(name) for name in COMMANDS)


def chapter(command: str) -> str:
    """Return a command's usage, description and flags."""
    usage, about, groups = read(help_of(command))
    paragraphs = [plain(part) for part in re.split(r"\n\s*\n", about)]
    lines = [f"## tglo {command}", "", f"```text\n{usage}\n```", "", "\n\n".join(paragraphs), ""]
    if command == "train":
        return "\n".join([*lines, TRAIN, ""])
    for group in groups:
        if group.title not in ("options", "positional arguments"):
            lines += [
                f"**{group.title.removesuffix(' options').capitalize()}.** {plain(group.text)}",
                "",
            ]
        for flag, text in group.flags.items():
            if flag.startswith(("-h, ", "-v, ", "-q, ")):
                continue
            lines += [f"`{flag}`", f": {plain(text)}", ""]
    return "\n".join(lines)
