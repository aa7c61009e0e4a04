"""The flags of `tglo train`: every key of a run's TOML file."""

from __future__ import annotations

from collections.abc import Sequence
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

    paths = [a for a in arguments[:1] if not a.startswith("-")]
    default = load_config(paths[0]) if paths else TrainConfig()
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
