"""Errors in a line: without a class's name where a person can mend it, with the extra that is missing."""

from __future__ import annotations

from tglo.console.extras import EXTRAS, install

EXPECTED = (ValueError, TypeError, OSError, ImportError, ArithmeticError, RuntimeError)


def in_a_line(error: BaseException, command: str = "") -> str:
    """Return what a person should read of an error; `command` is what they had started."""
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        if module in EXTRAS:
            return f"{command or 'this'} needs {module}, which is not installed: {install(EXTRAS[module])}"
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"  # without the number
    kind = type(error).__name__
    if isinstance(error, EXPECTED):
        return text or f"{kind}: no message"
    return f"{kind}: {text or 'no message'} (an error that was not foreseen; -v shows where it happened)"
