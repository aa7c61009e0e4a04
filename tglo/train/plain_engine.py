"""One process, plain PyTorch: AdamW on float32 weights, autocast for half precision."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tglo.devices import DTYPES
from tglo.train.config import TrainConfig

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
        self.optimizer = torch.optim.AdamW(
            self.trained.values(),
            lr=self.config.learning_rate,
            betas=(self.config.beta1, self.config.beta2),
            eps=self.config.epsilon,
            weight_decay=self.config.weight_decay,
            fused=device.type == "cuda",
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        self.skipped = 0
        self._norm: Tensor | None = None

    def autocast(self) -> AbstractContextManager[None]:
        """Context in which policy and reference predict."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of one micro batch's mean loss."""
        self.scaler.scale(loss / self.config.accumulation).backward()

    def gradient_is_bad(self) -> bool:
        """Whether the accumulated gradient is not finite. fp16's own overflows do not count."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.trained.values() if p.grad is not None]
        self._norm = torch.nn.utils.get_total_norm(gradients)
        return not self.scaler.is_enabled() and not math.isfinite(float(self._norm))

    def step(self, learning_rate: float) -> float:
        """Update the weights; returns the gradient's norm before clipping."""
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
        return float(norm)

    def master_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Trained weights by name, in float32."""
        for name, parameter in self.trained.items():
            yield name, parameter.detach()

    def state_dict(self) -> dict[str, Tensor]:
        """Trained weights by name (as master_weights, in one dict)."""
        return dict(self.master_weights())

    def save(self, folder: Path) -> None:
        """Write weights, optimizer moments and loss scale to ``folder`` (safetensors and JSON)."""
        weights = {name: weight.contiguous() for name, weight in self.master_weights()}
        save_file(weights, folder / "model.safetensors")
        moments: dict[str, Tensor] = {}
        for name, parameter in self.trained.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                moments[f"{name}/{key}"] = torch.as_tensor(value).contiguous()
        save_file(moments, folder / "optimizer.safetensors")
        (folder / "scaler.json").write_text(json.dumps(self.scaler.state_dict()))

    def load(self, folder: Path) -> None:
        """Restore what :meth:`save` wrote, exactly."""
        weights = load_file(folder / "model.safetensors", device=str(self.device))
        if weights.keys() != self.trained.keys():
            raise ValueError(
                f"{folder} holds other weights than are trained now (full or LoRA, or the rank, "
                "was changed); use another output folder, or the settings of that run"
            )
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(weights[name])
        moments = load_file(folder / "optimizer.safetensors")
        for entry, value in moments.items():
            name, key = entry.rsplit("/", 1)
            keep = value if key == "step" and self.device.type == "cpu" else value.to(self.device)
            self.optimizer.state[self.trained[name]][key] = keep
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(json.loads((folder / "scaler.json").read_text()))
