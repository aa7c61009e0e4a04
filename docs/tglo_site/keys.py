"""The keys of a run's file, from the dataclasses that it fills."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tglo.train import TrainConfig
from tglo.train.config_limits import LIMITS

NAMES = {str: "text", bool: "true or false", int: "whole number", float: "number", Path: "path"}


def page() -> str:
    """Return a chapter for each table of a run's file."""
    return "\n".join(chapter("", TrainConfig))


def chapter(prefix: str, kind: type) -> list[str]:
    """Return a table's keys, and then the tables inside it."""
    said, hints, inner = docstrings(kind), get_type_hints(kind), []
    lines = [f"## {f'`[{prefix[:-1]}]`' if prefix else 'At the top of the file'}", ""]
    lines += [f"{(inspect.getdoc(kind) or '').splitlines()[0]}", ""]
    for key in fields(kind):
        if is_dataclass(hints[key.name]):
            inner += chapter(f"{prefix}{key.name}.", hints[key.name])
            continue
        limit = LIMITS.get(f"{prefix}{key.name}")
        facts = [type_name(hints[key.name]), f"default {default(key)}"]
        facts += [str(limit)] if limit else []
        lines += [f"`{prefix}{key.name}`", f": *{'; '.join(facts)}*", ""]
        if key.name in said:
            lines += [f"  {' '.join(said[key.name].split())}", ""]
    return lines + inner


def type_name(hint: Any) -> str:
    """Return a type in words."""
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(type_name(part) for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        return f"list of {type_name(get_args(hint)[0])}"
    return NAMES[hint]


def default(key: Field[Any]) -> str:
    """Return a key's default as TOML has it."""
    value = key.default if key.default is not MISSING else key.default_factory()  # type: ignore[misc]
    if value is None or value in ("", Path()):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return (
        f"`{value}`"
        if isinstance(value, int | float)
        else f'`"{value}"`'
        if value != ()
        else "`[]`"
    )


def docstrings(kind: type) -> dict[str, str]:
    """Return the text below each field, of a class and those that it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):  # made by make_dataclass
            continue
        assert isinstance(tree.body[0], ast.ClassDef)
        body = tree.body[0].body
        for line, text in pairwise(body):
            if isinstance(line, ast.AnnAssign) and isinstance(text, ast.Expr):
                if isinstance(line.target, ast.Name) and isinstance(text.value, ast.Constant):
                    found[line.target.id] = str(text.value.value)
    return found
