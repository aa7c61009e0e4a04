"""The command line: a table of commands. The arguments of a command's function are its flags."""

from __future__ import annotations

import logging
import os
import sys
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
    plan,
    score,
    sweep,
    threshold,
    train,
)

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
    "evaluate": evaluate.evaluate,
    "sweep": sweep.sweep,
    "bench": bench.bench,
}
FLAGS_OF = {"cache": cache.flags_of, "plan": plan.flags_of}
"""Command -> (a run's configuration) -> the flags that it answers."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. TGLO_DEBUG=1 shows the traceback of an error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    main_process = os.environ.get("RANK", "0") == "0"
    # Read when torch is loaded: CPU threads that spin while others need the core cost up to ten times.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of torchvision
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO if main_process else logging.WARNING)
    name, *rest = arguments or [""]
    try:
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
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError, RuntimeError) as error:
        if os.environ.get("TGLO_DEBUG") == "1":
            raise
        print(f"tglo: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _with_run(name: str, path: str, *arguments: str) -> None:
    """Run a command with flags from a run's TOML file; those in the arguments win."""
    from tglo.train import load_config

    flags = FLAGS_OF[name](load_config(path))
    tyro.cli(partial(COMMANDS[name], **flags), args=arguments, prog=f"tglo {name} {path}")


if __name__ == "__main__":
    sys.exit(main())
