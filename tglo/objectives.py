"""Objectives by name: one signature, so that a training loop can switch between them.

Each takes the policy's prediction, the target, the scores, the threshold and keyword arguments of
:func:`tglo.tgo_loss`, and returns (mean loss, TGOStats).
"""

from __future__ import annotations

from typing import Any, Protocol, cast

from torch import Tensor

from tglo.losses import TGOStats, sft_loss, tgo_loss


class Objective(Protocol):
    """A loss over one micro batch; shapes as in :func:`tglo.tgo_loss`."""

    def __call__(
        self,
        policy_pred: Tensor,
        target: Tensor,
        scores: Tensor,
        threshold: Tensor,
        *,
        reference_pred: Tensor | None,
        reference_error: Tensor | None,
        beta: float,
        temperature: float,
        confidence: float,
        timestep_weight: Tensor,
        backend: str,
    ) -> tuple[Tensor, TGOStats]: ...


def tgo(
    policy_pred: Tensor, target: Tensor, scores: Tensor, threshold: Tensor, **settings: Any
) -> tuple[Tensor, TGOStats]:
    """Threshold-guided optimization (arXiv 2605.04653)."""
    return tgo_loss(policy_pred, target, scores, threshold, return_stats=True, **settings)


def sft(
    policy_pred: Tensor,
    target: Tensor,
    scores: Tensor,
    threshold: Tensor,
    *,
    timestep_weight: Tensor,
    **_: Any,
) -> tuple[Tensor, TGOStats]:
    """Supervised fine-tuning on the samples at or above the threshold; uses no reference."""
    result = sft_loss(
        policy_pred, target, scores, threshold, timestep_weight=timestep_weight, return_stats=True
    )
    return cast("tuple[Tensor, TGOStats]", result)


OBJECTIVES: dict[str, Objective] = {"tgo": tgo, "sft": sft}
