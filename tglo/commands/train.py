"""The flags of `tglo train`: every key of a run's TOML file."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from tglo.console.parsing import parse
from tglo.console.verbosity import note

if TYPE_CHECKING:
    from tglo.train import TrainConfig

HELP = "Train as a TOML file and these flags say; flags win. -v and -q as everywhere."


def train(config: Positional[Path]) -> None:
    """Train as a TOML file says; every key is also a flag (tglo train config.toml --help).

    Args:
        config: TOML file.
    """
    train_with([str(config)])


def train_with(arguments: Sequence[str]) -> int | None:
    """Train as a TOML file, the first of the arguments, and the flags after it say; flags win.

    Returns the status of a process that Ctrl-C has ended, after its checkpoint, if that is what happened.
    """
    from tglo.train import TrainConfig, load_config, processes
    from tglo.train import train as run
    from tglo.train.config_files import parse_config, to_plain
    from tglo.train.recipes import with_recipe

    paths = [a for a in arguments[:1] if not a.startswith("-")]
    default = load_config(paths[0]) if paths else TrainConfig()
    for recipe in _recipes(arguments):  # its keys come before the other flags
        default = parse_config(with_recipe(to_plain(default), recipe))
    default = _with_objectives(default, arguments)
    config = parse(
        type(default),
        arguments[len(paths) :],
        "tglo train CONFIG.toml",
        default=default,
        description=HELP,
    )
    result = run(config)
    if result.stopped_by == signal.SIGINT:
        return 128 + signal.SIGINT  # the loop has said how to resume
    if processes.rank():
        return None  # rank 0 says it once
    if not result.finished:
        how = "" if config.output.resume else " without --output.no-resume"
        print(f"stopped after {result.steps} steps; the same command{how} resumes")
    elif result.export is not None:
        note(f"{result.steps} steps done")  # where the export is, the line before it says
    return None


def all_flags() -> Callable[..., None]:
    """Return a function with the flags that `train_with` reads, as completion wants it."""
    from tglo.train import TrainConfig

    default = TrainConfig()

    def run(config: Path, settings: Any = default) -> None: ...

    run.__annotations__ = {
        "config": Positional[Path],
        "settings": Annotated[TrainConfig, arg(name="")],
        "return": None,
    }
    run.__doc__ = train.__doc__
    return run


def _recipes(arguments: Sequence[str]) -> list[str]:
    """Return the recipes that flags name and that there are; tyro says so of others."""
    from tglo.train.recipes import RECIPES

    return [name for name in _values("--recipe", arguments) if name in RECIPES]


def _with_objectives(config: TrainConfig, arguments: Sequence[str]) -> TrainConfig:
    """Return the configuration as one whose type has the constants of other packages' objectives that flags
    name, by --objective.name NAME or --objective.NAME.CONSTANT.
    """
    from tglo.objectives import OBJECTIVES
    from tglo.train.config_files import parse_config, to_plain

    flags = (a.partition("=")[0].split(".") for a in arguments if a.startswith("--objective."))
    tables = [parts[1].replace("-", "_") for parts in flags if len(parts) == 3]
    strange = [name for name in tables if not hasattr(config.objective, name)]
    named = [n for n in _values("--objective.name", arguments) if n not in OBJECTIVES]
    if not strange and not named:
        return config
    plain = to_plain(config)
    plain["objective"] |= {name: {} for name in strange if OBJECTIVES.find(name) is not None}
    for name in named:
        plain["objective"]["name"] = name
    return parse_config(plain)


def _values(flag: str, arguments: Sequence[str]) -> list[str]:
    """Return what a flag is given, each time."""
    joined = [a.removeprefix(f"{flag}=") for a in arguments if a.startswith(f"{flag}=")]
    return joined + [b for a, b in pairwise(arguments) if a == flag]
