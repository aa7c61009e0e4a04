"""The flags of `tglo train`: every key of a run's TOML file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import tyro
from tyro.conf import Positional


def train(config: Positional[Path]) -> None:
    """Train as a TOML file says; every key is also a flag (tglo train config.toml --help).

    Args:
        config: TOML file.
    """
    train_with([str(config)])


def train_with(arguments: Sequence[str]) -> None:
    """Train as a TOML file, the first of the arguments, and the flags after it say; flags win."""
    from tglo.train import TrainConfig, load_config
    from tglo.train import train as run
    from tglo.train.config_files import parse_config, to_plain
    from tglo.train.recipes import with_recipe

    paths = [a for a in arguments[:1] if not a.startswith("-")]
    default = load_config(paths[0]) if paths else TrainConfig()
    for recipe in _recipes(arguments):  # its keys come before the other flags
        default = parse_config(with_recipe(to_plain(default), recipe))
    config = tyro.cli(
        TrainConfig,
        default=default,
        args=list(arguments[len(paths) :]),
        prog="tglo train CONFIG.toml",
        description="Train as a TOML file and these flags say; flags win.",
    )
    result = run(config)
    if not result.finished:
        how = "" if config.output.resume else " without --output.no-resume"
        print(f"stopped after {result.steps} steps; the same command{how} goes on")
    elif result.export is not None:
        print(f"{result.steps} steps done, exported to {result.export}")


def _recipes(arguments: Sequence[str]) -> list[str]:
    """Return the recipes that flags name and that there are; tyro says so of others."""
    from tglo.train.recipes import RECIPES

    named = [a.removeprefix("--recipe=") for a in arguments if a.startswith("--recipe=")]
    named += [b for a, b in pairwise(arguments) if a == "--recipe"]
    return [name for name in named if name in RECIPES]
