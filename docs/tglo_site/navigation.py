"""The order of the pages: the lists of links in docs/index.md, a chapter for each of its headings."""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import normpath

ITEM = re.compile(r"^- \[([^\]]+)\]\(([\w/.-]+)\.md\)", re.MULTILINE)
FILE_NAME = re.compile(r"\[(?:docs/)?[\w/-]+\.md\]\(([\w./-]+\.md)(#[\w-]*)?\)")
LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\(((?:\.\./)+[^)#\s]+)(#[\w-]*)?\)")


def chapters(index: str) -> dict[str, list[tuple[str, str]]]:
    """Return heading -> (title, page without .md), as docs/index.md lists them."""
    parts = re.split(r"^## (.+)$", index, flags=re.MULTILINE)[1:]
    found = {title: ITEM.findall(text) for title, text in zip(parts[::2], parts[1::2], strict=True)}
    return {title: pages for title, pages in found.items() if pages}


def toctrees(index: str) -> str:
    """Return the chapters as Sphinx wants them, for the end of the first page."""
    text = ""
    for heading, pages in chapters(index).items():
        lines = "".join(f"{title} <{page}>\n" for title, page in pages)
        text += f"\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{lines}```\n"
    return text


def with_repository_links(text: str, page: str, root: Path, repository: str) -> str:
    """Return a page whose links to files outside docs/ lead to the repository."""
    folder = Path("docs", page).parent.as_posix()

    def replace(found: re.Match[str]) -> str:
        target = normpath(f"{folder}/{found[2]}")
        if target.startswith("docs/"):
            return found[0]
        kind = "tree" if (root / target).is_dir() else "blob"
        return f"[{found[1]}]({repository}/{kind}/main/{target}{found[3] or ''})"

    return LINK.sub(replace, text)


def with_titles(text: str, page: str, docs: Path) -> str:
    """Return a page whose links that show a file's name show that page's title."""

    def replace(found: re.Match[str]) -> str:
        path = (docs / page).parent / found[1]
        if not path.is_file():  # Sphinx says so
            return found[0]
        title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        return f"[{title}]({found[1]}{found[2] or ''})"

    return FILE_NAME.sub(replace, text)
