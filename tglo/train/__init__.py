"""Training: the configuration, the loop, and what the loop leans on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tglo.train.config import TrainConfig, load_config

if TYPE_CHECKING:
    from tglo.train.loop import TrainResult

__all__ = ["TrainConfig", "load_config", "train"]


def train(config: TrainConfig) -> TrainResult:
    """Train as ``config`` says; see :func:`tglo.train.loop.train`, loaded on first use."""
    from tglo.train.loop import train as run

    return run(config)
