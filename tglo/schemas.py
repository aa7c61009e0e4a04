"""The operators' schemas and shapes; they exist with or without the compiled extension.

Importing this module also loads tglo/_C.so, which adds CPU and CUDA implementations to them. The
Triton kernels implement operators of their own, `<name>_triton`, so that both can be at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tglo import extension

_LOSS = (
    "Tensor policy_pred, Tensor target, Tensor? reference_pred, Tensor? reference_error, "
    "Tensor scores, Tensor? threshold, Tensor? timestep_weight, Tensor? mask, {more}"
    "int mask_inner, float threshold_value, float timestep_weight_value, float beta, "
    "float temperature, float confidence, int draws, int reduction"
)
SCHEMAS = {
    "tgo_loss": f"({_LOSS.format(more='')}) -> (Tensor loss, Tensor log_ratio, "
    "Tensor coefficient, Tensor policy_error, Tensor reference_error)",
    "tgo_loss_backward": "(Tensor grad_loss, Tensor coefficient, Tensor policy_pred, "
    "Tensor target, Tensor? mask, int mask_inner, int draws) -> Tensor",
    "tgo_loss_and_grad": f"({_LOSS.format(more='Tensor? loss_scale, float loss_scale_value, ')}) "
    "-> (Tensor loss, Tensor log_ratio, Tensor gradient, Tensor policy_error, "
    "Tensor reference_error)",
    "prediction_error": "(Tensor prediction, Tensor target, Tensor? mask, int mask_inner) "
    "-> Tensor",
    "diffuse": "(Tensor latents, Tensor scale, Tensor noise_scale, Tensor sample_ids, "
    "Tensor draws, int seed, int purpose) -> Tensor",
}
"""Arguments are taken as tglo/ops.py and tglo/noise_ops.py have prepared them.

Predictions: (rows, ...) of one dtype and one memory layout with dense rows. Vectors of scores,
thresholds, weights and cached errors: float32 or float64, thresholds, weights and loss_scale also as
one number without dimensions; computed with in float64. mask: (rows, period) or (1, period) float32; element
i of a row in memory order has weight mask[row, (i // mask_inner) % period]. diffuse: latents
contiguous, scale and noise_scale (B,) float32, sample_ids and draws (B,) int64.
"""

_library = torch.library.Library("tglo", "DEF")


def define(name: str, schema: str) -> None:
    """An operator for the extension and one for Triton."""
    for suffix in ("", "_triton"):
        _library.define(name + suffix + schema)


def implement(name: str, schema: str, run: Callable[..., Any]) -> None:
    """An operator that is Python on every device."""
    _library.define(name + schema)
    _library.impl(name, run, "CompositeExplicitAutograd")


for _name, _schema in SCHEMAS.items():
    define(_name, _schema)
_library.define("_philox(Tensor counter, int key0, int key1) -> Tensor")  # of the C++ header
_library.define("_extension_version() -> int")
_library.define("_cpu_instructions() -> int")
_library.define("_cuda_architectures() -> int[]")  # 90 is sm_90; empty: no CUDA kernels
_library.define("_cuda_error(int device) -> int")  # 0 if the kernels run there


def _loss_and_wide(
    policy_pred: Tensor, draws: int, reduction: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, a vector of one float64 per sample, and one of one per row."""
    rows = policy_pred.shape[0]
    batch = rows // draws
    loss = policy_pred.new_empty((batch,) if reduction == 0 else (), dtype=torch.float32)
    samples = policy_pred.new_empty((batch,), dtype=torch.float64)
    return loss, samples, policy_pred.new_empty((rows,), dtype=torch.float64)


def _tgo_loss_fake(policy_pred: Tensor, *others: Any) -> tuple[Tensor, ...]:
    loss, samples, rows = _loss_and_wide(policy_pred, *others[-2:])
    return loss, samples, rows, torch.empty_like(rows), torch.empty_like(rows)


def _tgo_loss_and_grad_fake(policy_pred: Tensor, *others: Any) -> tuple[Tensor, ...]:
    loss, samples, rows = _loss_and_wide(policy_pred, *others[-2:])
    return loss, samples, torch.empty_like(policy_pred), rows, torch.empty_like(rows)


def _tgo_loss_backward_fake(
    grad_loss: Tensor, coefficient: Tensor, policy_pred: Tensor, *others: Any
) -> Tensor:
    return torch.empty_like(policy_pred)


def _prediction_error_fake(prediction: Tensor, *others: Any) -> Tensor:
    return prediction.new_empty((prediction.shape[0],), dtype=torch.float64)


def _diffuse_fake(latents: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(latents)


_FAKES = {
    "tgo_loss": _tgo_loss_fake,
    "tgo_loss_backward": _tgo_loss_backward_fake,
    "tgo_loss_and_grad": _tgo_loss_and_grad_fake,
    "prediction_error": _prediction_error_fake,
    "diffuse": _diffuse_fake,
}


def register_triton(name: str, file: str) -> None:
    """The function of that name in a file under kernels/, which is imported by its first call."""

    def run(*arguments: Any) -> Any:
        from importlib import import_module

        return getattr(import_module(f"tglo.kernels.{file}"), name)(*arguments)

    _library.impl(f"{name}_triton", run, "CUDA")


for _name, _fake in _FAKES.items():
    for _suffix in ("", "_triton"):
        torch.library.register_fake(f"tglo::{_name}{_suffix}")(_fake)
    register_triton(_name, "noise" if _name == "diffuse" else "loss")

EXTENSION = extension.load()
