"""Training: the configuration, the loop, and what the loop leans on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tglo.train.config import (
    DataConfig,
    EngineConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    OutputConfig,
    TrainConfig,
)
from tglo.train.config_files import load_config
from tglo.train.config_types import objective_config

if TYPE_CHECKING:
    from tglo.train.loop import TrainResult

__all__ = [
    "DataConfig",
    "EngineConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "OutputConfig",
    "TrainConfig",
    "load_config",
    "objective_config",
    "train",
]


def train(config: TrainConfig) -> TrainResult:
    """Train as `config` says; see `tglo.train.loop.train`, which is loaded on first use."""
    from tglo.train import loop

    return loop.train(config)
