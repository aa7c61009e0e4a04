"""The one place that chooses a backend."""

from __future__ import annotations

import torch
from torch import Tensor

from tglo import reference


def tgo_loss(
    policy_pred: Tensor,
    target: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    reference_pred: Tensor | None,
    reference_error: Tensor | None,
    beta: float,
    temperature: float,
    confidence: float,
    timestep_weight: Tensor | float,
    draws: int,
    reduction: str,
    backend: str,
) -> reference.TGOResult:
    """The reduced loss with its per-sample results; arguments are taken as checked."""
    result = reference.tgo_loss(
        policy_pred,
        target,
        scores,
        threshold,
        reference_pred=reference_pred,
        reference_error=reference_error,
        beta=beta,
        temperature=temperature,
        confidence=confidence,
        timestep_weight=timestep_weight,
        draws=draws,
    )
    dtype = torch.promote_types(policy_pred.dtype, torch.float32)
    return result._replace(loss=reference.reduce_loss(result.loss, reduction).to(dtype))


def prediction_error(prediction: Tensor, target: Tensor, *, backend: str) -> Tensor:
    return reference.prediction_error(prediction, target)


BACKENDS = ("auto", "cuda", "triton", "cpu", "reference")


def check_backend(name: str) -> None:
    """ValueError for a name that is no backend's."""
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; use one of {', '.join(map(repr, BACKENDS))}")
