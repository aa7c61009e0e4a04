"""The command line: a table of commands. The arguments of a command's function are its flags."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import tyro

from tglo.commands import (
    bench,
    cache,
    demo,
    doctor,
    evaluate,
    export,
    generate,
    plan,
    push,
    score,
    sweep,
    threshold,
    train,
)
from tglo.redaction import redacted
from tglo.stopping import Stopped, stopped_by_sigterm

log = logging.getLogger("tglo")

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo.demo,
    "doctor": doctor.doctor,
    "generate": generate.generate,
    "score": score.score,
    "threshold": threshold.threshold,
    "cache": cache.cache,
    "plan": plan.plan,
    "train": train.train,
    "export": export.export,
    "push": push.push,
    "evaluate": evaluate.evaluate,
    "sweep": sweep.sweep,
    "bench": bench.bench,
}
FLAGS_OF = {"cache": cache.flags_of, "plan": plan.flags_of}
"""Command -> (a run's configuration) -> the flags that it answers."""
RESUMABLE = ("demo", "generate", "score", "cache", "train", "evaluate", "sweep")
EXPECTED = (ValueError, TypeError, OSError, ImportError, ArithmeticError, RuntimeError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. Whatever goes wrong is one line, without secrets.

    TGLO_DEBUG=1 shows the traceback of an error.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    main_process = os.environ.get("RANK", "0") == "0"
    # Read when torch is loaded: CPU threads that spin while others need the core cost up to ten times.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of torchvision
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_redact)
    log.setLevel(logging.INFO if main_process else logging.WARNING)
    # peft imports bitsandbytes, which asks on some CPUs for a package that it then does without.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    name = arguments[0] if arguments else ""
    again = "the same command goes on" if name in RESUMABLE else "start the same command again"
    try:
        with stopped_by_sigterm():
            _run(arguments)
    except Stopped as stop:
        print(f"tglo: stopped by {stop.by}; {again}", file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        print(f"tglo: interrupted; {again}", file=sys.stderr)
        return 128 + signal.SIGINT
    except SystemExit:  # a wrong flag, or --help
        raise
    except BaseException as error:  # libraries have classes of their own, some below no Exception
        if os.environ.get("TGLO_DEBUG") == "1":
            print(redacted(traceback.format_exc()), file=sys.stderr)
        print(redacted(f"tglo: {_in_a_line(error)}"), file=sys.stderr)
        return 1
    return 0


def _run(arguments: list[str]) -> None:
    name, *rest = arguments or [""]
    if name == "train" and rest:
        train.train_with(rest)
    elif name in FLAGS_OF and rest and not rest[0].startswith("-"):
        _with_run(name, *rest)
    else:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            args=arguments,
            prog="tglo",
            description="Threshold-guided optimization of image and video generators.",
        )


def _in_a_line(error: BaseException) -> str:
    text = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
    if isinstance(error, EXPECTED):
        return text
    return f"{text} (an error that was not foreseen; TGLO_DEBUG=1 shows where it happened)"


def _redact(record: logging.LogRecord) -> bool:
    with suppress(Exception):  # a library's wrong format is its handler's business
        record.msg, record.args = redacted(record.getMessage()), ()
    return True


def _with_run(name: str, path: str, *arguments: str) -> None:
    """Run a command with flags from a run's TOML file; those in the arguments win."""
    from tglo.train import load_config

    flags = FLAGS_OF[name](load_config(path))
    tyro.cli(partial(COMMANDS[name], **flags), args=arguments, prog=f"tglo {name} {path}")


if __name__ == "__main__":
    sys.exit(main())
