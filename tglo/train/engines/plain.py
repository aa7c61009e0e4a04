"""One process, plain PyTorch: float32 weights, autocast for half precision.

A step reads nothing back from the device, but for fp16, whose loss scale the host has to know, and
optimizers that cannot stop an update on the device (see guard.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn

from tglo.devices import DTYPES
from tglo.train.config import TrainConfig
from tglo.train.contents import Files, size, write
from tglo.train.engines import loss_scale, whole
from tglo.train.engines.layouts import open_stored
from tglo.train.engines.optimizers import load_state, make_optimizer, stops_on_device

MAX_SKIPPED = 50


class PlainEngine:
    """Forward, backward and update of one module in this process."""

    name = "plain"

    def __init__(self, config: TrainConfig, module: nn.Module, device: torch.device) -> None:
        self.config = config.optimizer
        self.device = device
        self.model: nn.Module = module.to(device)
        self.module = module
        self.dtype = DTYPES[config.engine.precision]
        self.trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.optimizer = make_optimizer(self.config, self.trained.values())
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        self.stops_on_device = stops_on_device(self.config) and not self.scaler.is_enabled()
        self.skipped = 0
        self._norm: Tensor | None = None

    def autocast(self) -> AbstractContextManager[None]:
        """Context in which policy and reference predict."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of one micro batch's mean loss."""
        self.scaler.scale(loss / self.config.accumulation).backward()

    def gradient_is_bad(self) -> Tensor:
        """() bool: the accumulated gradient is not finite. fp16's own overflows do not count."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.trained.values() if p.grad is not None]
        self._norm = torch.nn.utils.get_total_norm(gradients)
        if self.scaler.is_enabled():
            return torch.zeros((), dtype=torch.bool, device=self.device)
        return torch.isfinite(self._norm).logical_not()

    def stop_if(self, bad: Tensor) -> None:
        """Let the next update change nothing if `bad`, () bool, is true; nothing is read back."""
        assert self.stops_on_device
        self.optimizer.found_inf = bad.to(torch.float32)  # type: ignore[attr-defined]

    def step(self, learning_rate: float) -> Tensor:
        """Update the weights; returns the gradient's norm before clipping, on the device."""
        if self._norm is None:
            self.gradient_is_bad()
        norm = self._norm
        assert norm is not None
        if self.config.max_gradient_norm:
            limit = self.config.max_gradient_norm
            torch.nn.utils.clip_grads_with_norm_(self.trained.values(), limit, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.skipped = self.skipped + 1 if self.scaler.get_scale() < before else 0
        if self.skipped > MAX_SKIPPED:
            raise FloatingPointError(
                f"{self.skipped} updates in a row overflowed in fp16; use engine.precision = bf16"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self._norm = None
        return norm

    def state_dict(self) -> dict[str, Tensor]:
        """Trained weights by name, in float32, not copied."""
        return {name: parameter.detach() for name, parameter in self.trained.items()}

    def parts(self) -> list[Tensor]:
        """Return the float32 weights that this process keeps an average of, not copied."""
        return list(self.state_dict().values())

    def whole(self, parts: list[Tensor]) -> dict[str, Tensor]:
        """Return tensors of the form of `parts` by the weights' names, not copied."""
        return dict(zip(self.trained, parts, strict=True))

    def fill(self, parts: list[Tensor], weights: Mapping[str, Tensor]) -> None:
        """Copy weights by name into tensors of the form of `parts`."""
        for name, part in self.whole(parts).items():
            part.copy_(weights[name])

    def wanted(self) -> dict[str, Tensor]:
        """Return tensors of the names, shapes and dtypes of `state_dict`."""
        return self.state_dict()

    def checkpoint_bytes(self) -> int:
        """Return about how many bytes `save` writes."""
        return size(self.files())

    def files(self) -> Files:
        """Return weights, optimizer state and loss scale as the files of a checkpoint, not copied."""
        scale = {loss_scale.FILE: json.dumps(self.scaler.state_dict())}
        return whole.files(self.optimizer, self.trained) | scale

    def save(self, folder: Path) -> None:
        """Write weights, optimizer state and loss scale to `folder` (safetensors and JSON)."""
        write(self.files(), folder)

    def check(self, folder: Path) -> None:
        """Raise DamagedFile or OSError unless `load` can restore everything from `folder`."""
        open_stored(folder).check(self.optimizer, self.trained)
        loss_scale.check(folder)

    def load(self, folder: Path, *, weights_only: bool = False) -> None:
        """Restore what `save` of either engine wrote, exactly; `check` it first."""
        source = open_stored(folder)
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(source.weight(name))
        if weights_only:
            return
        load_state(self.optimizer, self.trained, source.state)
        if self.scaler.is_enabled():
            loss_scale.restore_scaler(self.scaler, loss_scale.read(folder))
