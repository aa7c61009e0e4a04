"""Docstrings in reStructuredText, which Sphinx reads.

They are written to be read in a terminal: bars and stars of formulas are what they look like, single backquotes mark
code, an indented paragraph is a formula, a paragraph of `name: text` lists arguments, and sections are Google's, with
one more, Options.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any

SECTIONS = ("Args", "Options", "Attributes", "Returns", "Raises", "Yields")
HEADING = re.compile(rf"({'|'.join(SECTIONS)}):")
ENTRY = re.compile(r"((?:[^:(]|\([^)]*\))+?): (.+)")
CODE = re.compile(r"(`+[^`]+`+)")


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Replace the lines of a docstring."""
    lines[:] = restructured(lines)


def restructured(lines: list[str]) -> list[str]:
    """Return a docstring's lines as reStructuredText."""
    made: list[str] = []
    in_section = False
    for empty, group in groupby(lines, key=lambda line: not line.strip()):
        if empty:
            continue
        first, *rest = paragraph = list(group)
        if found := HEADING.fullmatch(first):
            in_section = True
            made += [f".. rubric:: {found[1]}", ""]
            paragraph = [line[4:] for line in rest]
            made += entries(paragraph) if found[1] != "Returns" else map(marked, paragraph)
        elif in_section and first.startswith("    "):
            made += entries(line[4:] for line in paragraph)
        elif first.startswith(" "):
            made += ["::", "", *paragraph]
        else:
            in_section = False
            made += entries(paragraph) if is_list(paragraph) else map(marked, paragraph)
        made.append("")
    return made


def is_list(paragraph: list[str]) -> bool:
    """Say whether each line of a paragraph that is not indented starts with an argument's name."""
    heads = [line for line in paragraph if not line.startswith(" ")]
    return all(ENTRY.fullmatch(line) and line[0].islower() for line in heads)


def entries(lines: Iterable[str]) -> list[str]:
    """Return `name: text` lines, with more text indented below them, as a definition list."""
    made: list[str] = []
    for line in lines:
        found = ENTRY.fullmatch(line)
        if found and not line.startswith(" "):
            made += ["", f"``{found[1].strip('`')}``", f"    {marked(found[2])}"]
        else:
            made.append(f"    {marked(line.strip())}")
    return made


def marked(text: str) -> str:
    """Return text in which nothing but backquotes is markup."""
    parts = CODE.split(text)
    parts[1::2] = [f"``{code.strip('`')}``" for code in parts[1::2]]
    parts[::2] = [re.sub(r"([\\|*]|_(?!\w))", r"\\\1", plain) for plain in parts[::2]]
    for number in range(2, len(parts), 2):  # markup ends at a space or punctuation alone
        if re.match(r"\w", parts[number]):
            parts[number] = "\\ " + parts[number]
    return "".join(parts)
