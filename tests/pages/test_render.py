"""Pages escape what they show, and load nothing."""

from __future__ import annotations

import base64
import hashlib
import re

import jinja2
import pytest
from markupsafe import Markup

from tglo.pages import render

HOSTILE = "<script>alert('x')</script> & \"quotes\""


@pytest.fixture
def templates(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Templates and assets of a test beside those of tglo."""
    mine: dict[str, str] = {}
    whole = render.environment().overlay(
        loader=jinja2.ChoiceLoader([jinja2.DictLoader(mine), render.environment().loader])
    )
    read = render.asset
    monkeypatch.setattr(render, "environment", lambda: whole)
    monkeypatch.setattr(render, "asset", lambda name: mine[name] if name in mine else read(name))
    return mine


def body(text: str) -> str:
    return (
        '{% extends "base.html" %}{% import "macros.html" as m %}{% block body %}'
        + text
        + "{% endblock %}"
    )


def policy(html: str) -> str:
    found = re.search(r'Security-Policy" content="([^"]*)"', html)
    assert found
    return found[1].replace("&#39;", "'")


def test_everything_is_escaped(templates: dict[str, str]) -> None:
    templates["t.html"] = body(
        "{{ m.facts([it]) }}{{ m.table([it], [[it]]) }}{{ m.figure('data:,', it, it) }}<b title=\"{{ it }}\">"
    )
    html = render.page("t.html", title=HOSTILE, it=HOSTILE)
    assert HOSTILE not in html and "<script" not in html
    assert html.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &#34;quotes&#34;") == 9
    assert "<b>" in render.page("t.html", title="t", it=Markup("<b>"))


def test_a_file_runs_and_loads_nothing(templates: dict[str, str]) -> None:
    templates["t.html"] = body("")
    html = render.page("t.html", title="t")
    assert policy(html) == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'"
    )
    assert not re.search(r"https?://|<script|url\(|@import", html)


def test_a_script_is_the_one_that_is_allowed(templates: dict[str, str]) -> None:
    templates["t.html"], templates["t.js"] = body(""), "document.title = '</b>'"
    html = render.page("t.html", title="t", script="t.js", live=True, policy={"img-src": "blob:"})
    found = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert found and found[1] == "document.title = '<\\/b>'"
    digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy(html)
    assert "connect-src 'self'" in policy(html) and "img-src blob:" in policy(html)


def test_a_missing_value_is_an_error(templates: dict[str, str]) -> None:
    templates["t.html"] = body("{{ nothing }}")
    with pytest.raises(jinja2.UndefinedError, match="nothing"):
        render.page("t.html", title="t")


def test_picture() -> None:
    assert render.picture(b"abc") == "data:image/png;base64,YWJj"
