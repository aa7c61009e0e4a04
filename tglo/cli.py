"""The command line: a table of commands. The arguments of a command's function are its flags."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
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
    look,
    plan,
    push,
    rate,
    score,
    sweep,
    threshold,
    train,
    watch,
)
from tglo.console import failures, pipes, shadowing, verbosity
from tglo.console.json_output import as_json
from tglo.console.parsing import USAGE, Call, did_you_mean, parse, read_only, refuse
from tglo.console.versions import version_line
from tglo.plugins import Registry, can_be_called
from tglo.redaction import redacted
from tglo.stopping import Lost, Stopped, ask_for_restart, stopped_by_sigterm

log = logging.getLogger("tglo")

_OWN: dict[str, Callable[..., Any]] = {
    "demo": demo.demo,
    "doctor": doctor.doctor,
    "generate": generate.generate,
    "score": score.score,
    "rate": rate.rate,
    "look": look.look,
    "threshold": threshold.threshold,
    "cache": cache.cache,
    "plan": plan.plan,
    "train": train.train,
    "watch": watch.watch,
    "export": export.export,
    "push": push.push,
    "evaluate": evaluate.evaluate,
    "sweep": sweep.sweep,
    "bench": bench.bench,
}
COMMANDS: Registry[Callable[..., Any]] = Registry("tglo.commands", _OWN, can_be_called)
"""With those of other packages (tglo.plugins)."""
FLAGS_OF = {"cache": cache.flags_of, "plan": plan.flags_of}
"""Command -> (a run's configuration) -> the flags that it answers."""
RESUMABLE = ("demo", "generate", "score", "rate", "cache", "train", "evaluate", "sweep")
DESCRIPTION = """Threshold-guided optimization of image and video generators.

Every command takes -v (say more, and where an error happened) and -q (say only what is wrong, and
results). tglo --version says what is installed, tglo COMMAND --help what a command takes.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. Whatever goes wrong is one line, without secrets.

    The status is 0, 1 for an error, 130 after Ctrl-C, 138 where other processes of the run are gone, 141 where
    nobody reads the output any more and 143 after SIGTERM; SystemExit(2) is raised for a command line that cannot
    be read. -v, or TGLO_DEBUG=1, shows the traceback of an error.
    """
    arguments, chosen = verbosity.take(sys.argv[1:] if arguments is None else arguments)
    # Read when torch is loaded: CPU threads that spin while others need the core cost up to ten times.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of torchvision
    verbosity.apply(chosen, main_process=os.environ.get("RANK", "0") == "0")
    # peft imports bitsandbytes, which asks on some CPUs for a package that it then does without.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    log.debug("%s", version_line())
    if hidden := shadowing.problem():
        log.warning("%s; %s", hidden, shadowing.REMEDY)
    name = arguments[0] if arguments else ""
    again = "the same command resumes" if name in RESUMABLE else "start the same command again"
    try:
        with stopped_by_sigterm():
            status = _run(arguments) or 0
            sys.stdout.flush()
            return status
    except Stopped as stop:
        print(f"tglo: stopped by {stop.by}; {again}", file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        print(f"tglo: interrupted; {again}", file=sys.stderr)
        return 128 + signal.SIGINT
    except SystemExit:  # a command line that cannot be read, or --help
        raise
    except BaseException as error:  # libraries have classes of their own, some below no Exception
        if isinstance(error, BrokenPipeError) and pipes.reader_is_gone():
            return pipes.STATUS
        if chosen == "verbose":
            print(redacted(traceback.format_exc()), file=sys.stderr)
        line = failures.in_a_line(error, f"tglo {name}".rstrip())
        print(redacted(f"tglo: {line}"), file=sys.stderr)
        if isinstance(error, Lost):
            ask_for_restart()
            return error.status
        return 1


def _run(arguments: list[str]) -> int | None:
    """Run what the arguments say; a command that was stopped, and has saved its state, returns a status."""
    name, *rest = arguments or [""]
    if name == "--version":
        print(version_line())
        return None
    if not name or name.startswith("-"):
        _without_command(arguments)
        return None
    if name == "train" and rest:
        return train.train_with(rest)
    found = COMMANDS.find(name)
    if found is None:
        hint = did_you_mean(name, COMMANDS.known())
        refuse(f"there is no command {name!r}{hint}; tglo --help lists them")
    command: Callable[..., Any] = read_only(found)
    prog = f"tglo {name}"
    if name in FLAGS_OF and rest and not rest[0].startswith("-"):
        command = partial(command, **_flags_of_run(name, rest[0]))
        prog, rest = f"{prog} {rest[0]}", rest[1:]
    _call(parse(command, rest, prog))
    return None


def _without_command(arguments: list[str]) -> None:
    """Print help, or a shell's completion; SystemExit(2) if it is neither."""
    every = {**COMMANDS, **dict(COMMANDS.plugins.working())}
    known = {name: read_only(command) for name, command in every.items()}
    known["train"] = read_only(train.all_flags()) if _completion(arguments) else known["train"]
    if arguments and not _completion(arguments) and arguments[0] not in ("-h", "--help"):
        flags = ["--help", "--version", "--tyro-print-completion", "--tyro-write-completion"]
        hint = did_you_mean(arguments[0], flags)
        refuse(f"tglo has no flag {arguments[0]}{hint}; flags of a command come after its name")
    with contextlib.redirect_stdout(sys.stdout if arguments else sys.stderr):
        try:
            tyro.extras.subcommand_cli_from_dict(
                known, args=arguments or ["--help"], prog="tglo", description=DESCRIPTION
            )
        except SystemExit as stop:
            raise SystemExit(stop.code if arguments else USAGE) from None


def _completion(arguments: list[str]) -> bool:
    return bool(arguments) and arguments[0] in (
        "--tyro-print-completion",
        "--tyro-write-completion",
    )


def _call(call: Call) -> None:
    """Run a command. With --json its result alone comes on standard output."""
    if not call.json:
        call()
        return
    with verbosity.results_as_data():
        result = call()
    print(as_json(result))


def _flags_of_run(name: str, path: str) -> dict[str, Any]:
    """Return the flags that a run's TOML file answers; those in the arguments win."""
    from tglo.train import load_config

    return FLAGS_OF[name](load_config(path))


if __name__ == "__main__":
    sys.exit(main())
