"""The reference policy's prediction: from a frozen copy, or from the policy with its LoRA off."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Predict(Protocol):
    """Family.predict: calls a denoiser on a draw's inputs (tglo.noise.draw)."""

    def __call__(self, denoiser: nn.Module, *inputs: Any) -> Tensor: ...


def keep_products_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights of linear and convolution layers to ``dtype``, in place.

    Autocast does so in each forward pass: the predictions are the same bit for bit, for half the
    memory and without the casting. Normalisations, which autocast computes in float32, stay.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            layer.to(dtype)


class CopyReference:
    """A frozen second model, replicated in each process whatever the ZeRO stage."""

    def __init__(self, predict: Predict, module: nn.Module) -> None:
        self._predict = predict
        self.module = module

    @torch.no_grad()
    def predict(self, *inputs: Any) -> Tensor:
        """The reference's answer, of the policy's shape."""
        return self._predict(self.module, *inputs)

    @torch.no_grad()
    def update(self, weights: dict[str, Tensor]) -> None:
        """Replace the reference by the policy (weights by name): pi_ref <- pi_theta."""
        for name, parameter in self.module.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])


class AdapterOffReference:
    """The policy's own base weights: LoRA is switched off for one forward pass."""

    def __init__(
        self,
        predict: Predict,
        module: nn.Module,
        adapters_off: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._predict = predict
        self._module = module
        self._adapters_off = adapters_off

    @torch.no_grad()
    def predict(self, *inputs: Any) -> Tensor:
        """The reference's answer, of the policy's shape."""
        with self._adapters_off():
            return self._predict(self._module, *inputs)


Reference = CopyReference | AdapterOffReference
