"""Flags of a command, read by tyro; what is mistyped is answered with the nearest that there is."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, NamedTuple, NoReturn, get_type_hints

import tyro

USAGE = 2
"""Exit status of a command line that cannot be read."""


def _switch(text: str, *aliases: str) -> Any:
    """Return the type of a flag that is there or not."""
    return Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(aliases=aliases, help=text)]


FLAG = r"--?[a-zA-Z][\w.-]*"
# Taken out of the arguments before they are parsed; here so that help and completion have them.
COMMON = {
    "verbose": _switch("Say more, and where an error happened.", "-v"),
    "quiet": _switch("Say only what is wrong, and results.", "-q"),
}
JSON = _switch("Print one JSON object on standard output, and all else on standard error.")


class Call(NamedTuple):
    """A command with its arguments, read but not yet run."""

    command: Callable[..., Any]
    arguments: dict[str, Any]
    json: bool

    def __call__(self) -> Any:
        return self.command(**self.arguments)


def read_only(command: Callable[..., Any]) -> Callable[..., Call]:
    """Return a function with a command's flags, -v and -q, and --json if it returns something, that
    returns the call.
    """
    signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
    added = dict(COMMON)
    if hints.get("return", type(None)) is not type(None):
        added["json"] = JSON

    @functools.wraps(command)
    def read(**arguments: Any) -> Call:
        common = {name: arguments.pop(name) for name in added}
        return Call(command, arguments, bool(common.get("json")))

    switch = inspect.Parameter.KEYWORD_ONLY
    more = [
        inspect.Parameter(name, switch, default=False, annotation=kind)
        for name, kind in added.items()
    ]
    del read.__wrapped__  # type: ignore[attr-defined]  # tyro would take its signature
    read.__annotations__ = {**hints, **added}
    read.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *more]
    )
    return read


def parse(kind: Any, arguments: Sequence[str], prog: str, **options: Any) -> Any:
    """Read arguments as `tyro.cli` does. Ends with status 2, and a suggestion, if they cannot be read."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=list(arguments), prog=prog, **options)
    except SystemExit as stop:
        if stop.code not in (0, None):
            wrong = _wrong_flag(arguments, flags_of(kind, prog, **options))
            if wrong:
                refuse(f"{prog} has no flag {wrong}; {prog} --help lists its flags")
            sys.stderr.write(said.getvalue())
        raise


def flags_of(kind: Any, prog: str, **options: Any) -> list[str]:
    """Return the flags that the help of a command lists."""
    said, width = io.StringIO(), os.environ.get("COLUMNS")
    # Where there is more room, tyro puts the boxes of a long help side by side.
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            tyro.cli(kind, args=["--help"], prog=prog, **options)
    finally:
        os.environ.pop("COLUMNS")
        if width is not None:
            os.environ["COLUMNS"] = width
    text = re.sub(r"\x1b\[[\d;]*m", "", said.getvalue())
    heads = re.findall(rf"^[│ ] ({FLAG}(?:, {FLAG})*)", text, re.MULTILINE)
    return [flag for head in heads for flag in head.split(", ")]


def refuse(text: str) -> NoReturn:
    """Say what is wrong with a command line, and end with status 2."""
    print(f"tglo: {text}", file=sys.stderr)
    raise SystemExit(USAGE)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message that names the nearest of the known words; "" if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _wrong_flag(arguments: Sequence[str], known: Sequence[str]) -> str:
    """Return the first flag that there is not, with the nearest one, if there is such a flag."""
    names = {flag.lstrip("-").replace("_", "-"): flag for flag in known}
    for argument in arguments:
        flag = argument.partition("=")[0]
        name = flag.lstrip("-").replace("_", "-")
        if argument == "--":
            break
        if not re.fullmatch(FLAG, flag) or name in names:
            continue
        same = [full for full in names if full.endswith(f".{name}")]  # in one of a run's sections
        near = same or difflib.get_close_matches(name, names, n=1)
        return f"{flag} (did you mean {names[near[0]]}?)" if near else flag
    return ""
