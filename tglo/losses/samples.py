"""The options that are given per sample or per draw, in the shapes in which trainers have them."""

from __future__ import annotations

import torch
from torch import Tensor

from tglo import reference
from tglo.losses import checks


def flat(value: Tensor | float) -> Tensor | float:
    """Return weights of shape (n, 1, 1, 1), ready to be multiplied with predictions, as (n,); anything else
    as it is.
    """
    if isinstance(value, Tensor) and value.ndim > 1 and value.shape[1:].numel() == 1:
        return value.flatten()
    return value


def scored_weight(
    scored: object,
    sample_weight: Tensor | float,
    samples: int,
    device: torch.device,
    other: str = "policy_pred",
) -> tuple[Tensor, Tensor]:
    """Check which samples are scored; return that, and the weights with 0 where a sample is not, (B,) float64."""
    scored = checks.check_tensor("scored", scored)
    if scored.dtype != torch.bool:
        raise TypeError(
            f"scored has dtype {scored.dtype}; pass torch.bool, True where a sample has a score, such as "
            "~scores.isnan()"
        )
    if scored.ndim != 1 or scored.shape[0] != samples:
        raise ValueError(
            f"scored has shape {tuple(scored.shape)}; it must be ({samples},): one bool per sample"
        )
    checks.check_device("scored", scored, device, other)
    return scored, reference.scored_weight(sample_weight, scored)
