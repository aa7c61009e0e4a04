"""Training: the configuration, the loop, and what the loop leans on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tglo.train.config import TrainConfig
from tglo.train.config_files import load_config

if TYPE_CHECKING:
    from tglo.train.loop import TrainResult

__all__ = ["TrainConfig", "load_config", "train"]


def train(config: TrainConfig) -> TrainResult:
    """Train as `config` says; see `tglo.train.loop.train`, which is loaded on first use."""
    from tglo.train import loop

    return loop.train(config)
