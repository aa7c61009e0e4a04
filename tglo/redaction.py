"""Passwords and tokens taken out of what is printed or stored: one rule for all of it."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
_SECRETS = (
    (re.compile(r"(?<=://)[^\s/?#'\"]+(?=@)"), HIDDEN),  # https://user:password@host
    (
        re.compile(r"([?&](?:\w*token|api_?key|password|secret)=)[^\s&#'\"]+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    # As Hugging Face, GitHub, GitLab, OpenAI and Anthropic write theirs. Folders are named hf_... and sk-...
    # as well, so the rest must be as long as a token's and have a digit.
    (
        re.compile(
            r"(?<![\w-])(hf_|gh[oprsu]_|github_pat_|glpat-|sk-(?:proj-|ant-|svcacct-)?)"
            r"(?=\w*\d)(?:[A-Za-z0-9]{30,}|(?<=glpat-)[\w-]{20,}|(?<=t_)\w{40,}|(?<=[jt]-)[\w-]{40,})"
            r"(?![\w-])"
        ),
        rf"\1{HIDDEN}",
    ),
)


def redacted(text: str) -> str:
    """Return text with *** in the place of each password of a URL and each token."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def redacted_plain(content: Any) -> Any:
    """Return nested plain data (dicts, lists, texts, numbers) in which every text is redacted."""
    if isinstance(content, dict):
        return {key: redacted_plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(redacted_plain(value) for value in content)
    return redacted(content) if isinstance(content, str) else content


def refuse_url(name: str, key: str) -> None:
    """Raise ValueError for a model that is named by a URL, without the password that may be in it."""
    if not re.match(r"[A-Za-z][\w+.-]*://", name):
        return
    page = re.search(r"huggingface\.co/([\w.-]+/[\w.-]+)", name)
    hub_id = f"its hub id, {page[1]}" if page else "a hub id (owner/model)"
    raise ValueError(
        f"{key} is a URL, {redacted(name)!r}; give {hub_id}, or a folder with a leading ./ or /. The hub "
        "takes a token for private models from the environment variable HF_TOKEN"
    )
