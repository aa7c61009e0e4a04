"""The operators' schemas and shapes; they exist with or without the compiled extension.

Importing this module also loads tglo/_C.so, which adds CPU implementations to them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tglo import extension

_library = torch.library.Library("tglo", "DEF")
_library.define(
    "tgo_loss(Tensor policy_pred, Tensor target, Tensor? reference_pred, Tensor? reference_error, "
    "Tensor scores, Tensor? threshold, Tensor? timestep_weight, float threshold_value, "
    "float timestep_weight_value, float beta, float temperature, float confidence, int draws, "
    "int reduction) -> (Tensor loss, Tensor log_ratio, Tensor coefficient, Tensor policy_error, "
    "Tensor reference_error)"
)
_library.define(
    "tgo_loss_backward(Tensor grad_loss, Tensor coefficient, Tensor policy_pred, "
    "Tensor target, int draws) -> Tensor"
)
_library.define("prediction_error(Tensor prediction, Tensor target) -> Tensor")
_library.define("_extension_version() -> int")
_library.define("_cpu_instructions() -> int")


@torch.library.register_fake("tglo::tgo_loss")
def _tgo_loss_fake(
    policy_pred: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    draws, reduction = others[-2:]
    rows = policy_pred.shape[0]
    batch = rows // draws
    loss = policy_pred.new_empty((batch,) if reduction == 0 else (), dtype=torch.float32)

    def wide(length: int) -> Tensor:
        return policy_pred.new_empty((length,), dtype=torch.float64)

    return loss, wide(batch), wide(rows), wide(rows), wide(rows)


@torch.library.register_fake("tglo::tgo_loss_backward")
def _tgo_loss_backward_fake(
    grad_loss: Tensor, coefficient: Tensor, policy_pred: Tensor, target: Tensor, draws: int
) -> Tensor:
    return torch.empty_like(policy_pred)


@torch.library.register_fake("tglo::prediction_error")
def _prediction_error_fake(prediction: Tensor, target: Tensor) -> Tensor:
    return prediction.new_empty((prediction.shape[0],), dtype=torch.float64)


def _register_triton(name: str) -> None:
    """CUDA tensors go to the Triton kernel of that name, which is imported by its first call."""

    def run(*arguments: Any) -> Any:
        from tglo.kernels import loss

        return getattr(loss, name)(*arguments)

    _library.impl(name, run, "CUDA")


for _name in ("tgo_loss", "tgo_loss_backward", "prediction_error"):
    _register_triton(_name)

EXTENSION = extension.load()
