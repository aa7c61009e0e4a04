"""What the tests of all pages share: the pages, their headings and links, and their blocks of commands."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.append(str(DOCS))  # for tglo_site, what the site is made with

OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = [*sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md")), *OUTSIDE]
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)>\s]+)>?\)")


@cache
def text_of(page: str) -> str:
    """A page as it is."""
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page: str) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", text_of(page))


@cache
def anchors(page: str) -> set[str]:
    """What links into a page may end with: its headings, as GitHub and the site name them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        words = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while (name if not number else f"{name}-{number}") in found:
            number += 1
        found.add(name if not number else f"{name}-{number}")
    return found


def links(page: str) -> list[str]:
    """The targets of a page's links and pictures that are not on other hosts."""
    without_code = re.sub(r"`[^`\n]+`", "`", prose(page))
    found = LINK.findall(without_code)
    return [target for target in found if not re.match(r"[a-z]+:", target)]
