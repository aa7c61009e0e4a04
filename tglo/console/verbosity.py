"""How much a command says: -v, -q, the log, and progress bars, which need a terminal."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Literal

from tglo.redaction import redacted

Verbosity = Literal["quiet", "normal", "verbose"]
FLAGS: dict[str, Verbosity] = {
    "-v": "verbose",
    "--verbose": "verbose",
    "-q": "quiet",
    "--quiet": "quiet",
}
# tqdm's bars, and those that huggingface_hub, transformers and diffusers make of it.
NO_BARS = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

_quiet = _as_data = False


def take(arguments: Sequence[str]) -> tuple[list[str], Verbosity]:
    """Split -v and -q, which may stand anywhere before a "--", from the arguments; the last one counts."""
    arguments = list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    chosen: list[Verbosity] = [FLAGS[a] for a in arguments[:end] if a in FLAGS]
    rest = [a for a in arguments[:end] if a not in FLAGS] + arguments[end:]
    if chosen:
        return rest, chosen[-1]
    return rest, "verbose" if os.environ.get("TGLO_DEBUG") == "1" else "normal"


def apply(verbosity: Verbosity, main_process: bool) -> None:
    """Set up the log and the bars; call it before libraries are imported, which ask the environment."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_redact)
    levels = {"quiet": logging.WARNING, "normal": logging.INFO, "verbose": logging.DEBUG}
    logging.getLogger("tglo").setLevel(levels[verbosity] if main_process else logging.WARNING)
    global _quiet
    _quiet = verbosity == "quiet"
    if verbosity == "quiet" or not sys.stderr.isatty():
        for name, value in NO_BARS.items():
            os.environ.setdefault(name, value)


def note(text: str) -> None:
    """Print a line on what was done, such as where a file was written; -q leaves it out."""
    if not _quiet:
        print(text)


def show(text: str) -> None:
    """Print a result for people; --json, which has it as data, leaves it out."""
    if not _as_data:
        print(text)


@contextmanager
def results_as_data() -> Iterator[None]:
    """What is printed goes to standard error, but for results, which are left out."""
    global _as_data
    _as_data = True
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _as_data = False


def bar_hidden(wanted: bool = True) -> bool | None:
    """Return tqdm's argument `disable`: True if no bar is wanted, else None, which asks for a terminal."""
    return True if not wanted or os.environ.get("TQDM_DISABLE") == "1" else None


def _redact(record: logging.LogRecord) -> bool:
    with suppress(Exception):  # a library's wrong format is its handler's business
        record.msg, record.args = redacted(record.getMessage()), ()
    return True
