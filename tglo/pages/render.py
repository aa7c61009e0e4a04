"""HTML pages from Jinja2 templates: text is escaped, and a page loads nothing but what it carries."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def page(
    template: str,
    *,
    title: str,
    script: str | tuple[str, ...] | None = None,
    live: bool = False,
    policy: dict[str, str] | None = None,
    **values: Any,
) -> str:
    """Return a page: `template` (a file in tglo/pages/templates that extends base.html) with its values.

    script: a file of the same folder that the page runs, or several as one. live: the page is served, and may
    ask its own server for images and data; otherwise it is a file on its own, with its images inside. policy:
    directives of the Content-Security-Policy beside or in place of those that follow from these. All
    values are escaped, unless they are markupsafe.Markup.
    """
    code = None if script is None else Markup(_joined(script).replace("</", "<\\/"))
    return (
        environment()
        .get_template(template)
        .render(
            title=title,
            style=Markup(asset("style.css")),
            script=code,
            policy=_policy(code, live, policy or {}),
            **values,
        )
    )


def picture(data: bytes, kind: str = "image/png") -> str:
    """Return the address of a picture that is carried by the page itself. kind: its MIME type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@lru_cache
def environment() -> Environment:
    """Return the environment of all templates; a value that a template lacks is an error."""
    return Environment(
        loader=PackageLoader("tglo.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@lru_cache
def asset(name: str) -> str:
    """Return the text of a file beside the templates."""
    return files("tglo.pages").joinpath("templates", name).read_text(encoding="utf-8")


def _joined(names: str | tuple[str, ...]) -> str:
    return "\n".join(map(asset, [names] if isinstance(names, str) else names))


def _policy(script: str | None, live: bool, chosen: dict[str, str]) -> str:
    own = " 'self'" if live else ""
    rules = {
        "default-src": "'none'",
        "img-src": f"data:{own}",
        "style-src": "'unsafe-inline'",
        "base-uri": "'none'",
        "form-action": own.strip() or "'none'",
    }
    if live:
        rules["connect-src"] = "'self'"
    if script is not None:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        rules["script-src"] = f"'sha256-{digest}'"
    return "; ".join(f"{name} {value}" for name, value in {**rules, **chosen}.items())
