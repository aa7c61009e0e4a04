"""The reference policy's answers: from a frozen copy, or from the policy with its LoRA off."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from tglo.noise.draw import Draw
from tglo.train import processes, stored
from tglo.train.contents import Files, write

FILE = "reference.safetensors"


class Predict(Protocol):
    """Family.predict: a denoiser's answer to a draw."""

    def __call__(self, denoiser: nn.Module, draw: Draw) -> Tensor: ...


def keep_products_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights of linear and convolution layers to `dtype`, in place.

    Autocast does so in each forward pass: the predictions are the same bit for bit, for half the
    memory and without the casting. Normalisations, which autocast computes in float32, stay.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            layer.to(dtype)


class Reference:
    """A frozen second model, replicated in each process whatever the ZeRO stage; or the policy itself,
    in a context in which its LoRA is switched off.
    """

    def __init__(
        self,
        predict: Predict,
        module: nn.Module,
        adapters_off: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._predict = predict
        self._module = module
        self._adapters_off = adapters_off

    @torch.no_grad()
    def predict(self, draw: Draw) -> Tensor:
        """Return the reference's answer, of the shape of the policy's."""
        with self._adapters_off():
            return self._predict(self._module, draw)

    @torch.no_grad()
    def update(self, weights: dict[str, Tensor]) -> None:
        """Replace a second model by the policy (weights by name): pi_ref <- pi_theta."""
        for name, parameter in self._module.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])

    def weights(self) -> dict[str, Tensor]:
        """Return the weights by name."""
        return {name: weight.detach() for name, weight in self._module.named_parameters()}

    def files(self) -> Files:
        """Return the weights (rank 0) as a file of a checkpoint, not copied."""
        return {FILE: self.weights()} if processes.rank() == 0 else {}

    def save(self, folder: Path) -> None:
        """Write the weights (rank 0)."""
        write(self.files(), folder)

    def check(self, folder: Path) -> None:
        """Raise DamagedFile or OSError unless `load` can restore the weights from a folder."""
        stored.check(folder / FILE, dict(self._module.named_parameters()))

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote."""
        self.update(stored.read(folder / FILE))
