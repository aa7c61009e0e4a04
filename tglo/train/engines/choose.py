"""The choice of a run's engine."""

from __future__ import annotations

import torch
from torch import nn

from tglo.devices import choose_device, process
from tglo.models import quantization
from tglo.models.execution.attention import check_place
from tglo.ops import insisted_backend
from tglo.train import processes
from tglo.train.config import TrainConfig
from tglo.train.engines import deepspeed
from tglo.train.engines.deepspeed import DeepSpeedEngine
from tglo.train.engines.plain import PlainEngine

Engine = PlainEngine | DeepSpeedEngine


def make_engine(config: TrainConfig, module: nn.Module, device: torch.device) -> Engine:
    """The engine that `config.engine` asks for, around `module`."""
    if wants_deepspeed(config):
        return DeepSpeedEngine(config, module, device)
    return PlainEngine(config, module, device)


def wants_deepspeed(config: TrainConfig) -> bool:
    """Say whether this run uses DeepSpeed: if asked for, or if a launcher started the process."""
    kind = config.engine.kind
    world_size = process()[1]
    if kind == "plain" and world_size > 1:
        raise ValueError(
            f"engine.kind = plain is one process, but WORLD_SIZE is {world_size}; use engine.kind = "
            "deepspeed"
        )
    return kind == "deepspeed" or (kind == "auto" and processes.launched())


def start_processes(config: TrainConfig) -> torch.device:
    """Join the run's process group where there is one; return this process's device."""
    device = choose_device(config.engine.device, "engine.device")
    check_place(config.model.attention, device, "model.attention")
    _check_backend(config, device)
    quantization.require(config.model.base_weights)
    if wants_deepspeed(config):
        return deepspeed.start(config, device)
    if device.index is not None:
        torch.cuda.set_device(device)
    return device


def _check_backend(config: TrainConfig, device: torch.device) -> None:
    """Raise ValueError for kernels that cannot run here, before a model is loaded for them."""
    try:
        insisted_backend("tgo_loss", device, torch.float32, config.objective.backend)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"objective.backend: {error}") from error
