"""The messages that docs/faq.md explains are messages of tglo."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.docs.pages import ROOT, text_of

PAGE = text_of("docs/faq.md")
QUOTED = re.findall(r"^> (.+)$", PAGE, re.MULTILINE)
OF_OTHERS = {"CUDA out of memory. ...": "PyTorch"}


@cache
def texts() -> str:
    """All texts in tglo's sources, one a line, with a gap for each value that is put in."""
    found = []
    for path in (ROOT / "tglo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "\0" for p in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%(\.\d+)?[a-z]%?%?", "\0", node.value))
    return "\n".join(text.replace("\n", " ") for text in found)


@pytest.mark.parametrize("message", QUOTED)
def test_a_message_is_there(message: str) -> None:
    if message in OF_OTHERS:
        return
    parts = [re.escape(part.strip(" ")) for part in message.split("...") if part.strip(" .")]
    assert max(len(part) for part in parts) >= 10, "too little of it is quoted to be found"
    assert re.search("[^\n]*?".join(parts), texts()), f"tglo has no such message: {message}"


def test_every_message_has_a_remedy() -> None:
    assert len(QUOTED) >= 30
    for message in QUOTED:
        below = PAGE.split(f"> {message}\n")[1].strip()
        assert below and not below.startswith((">", "#")), message
