"""The differentiable log-ratio and policy error over the fused kernels: what objectives are made of.

One launch forward (the operator of `tglo.tgo_loss`) and one backward (its backward), whatever the
loss that is written over them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from tglo import ops, reference
from tglo.losses import checks
from tglo.ops.dtypes import constant, number, promote


class LogRatio(NamedTuple):
    """The log-ratio with what it was computed from."""

    log_ratio: Tensor
    """(B,) float64: ell = log pi_theta - log pi_ref; has a gradient."""
    policy_error: Tensor
    """(B * draws,) float64: mean square error of the policy's prediction; no gradient."""
    reference_error: Tensor
    """(B * draws,) float64: the same of the reference."""


@overload
def log_ratio(
    policy_pred: Tensor,
    target: Tensor,
    *,
    reference_pred: Tensor | None = ...,
    reference_error: Tensor | None = ...,
    temperature: float = ...,
    timestep_weight: Tensor | float | None = ...,
    mask: Tensor | None = ...,
    draws: int = ...,
    return_errors: Literal[False] = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def log_ratio(
    policy_pred: Tensor,
    target: Tensor,
    *,
    reference_pred: Tensor | None = ...,
    reference_error: Tensor | None = ...,
    temperature: float = ...,
    timestep_weight: Tensor | float | None = ...,
    mask: Tensor | None = ...,
    draws: int = ...,
    return_errors: Literal[True],
    backend: str = ...,
) -> LogRatio: ...
def log_ratio(
    policy_pred: Tensor,
    target: Tensor,
    *,
    reference_pred: Tensor | None = None,
    reference_error: Tensor | None = None,
    temperature: float = 1e-3,
    timestep_weight: Tensor | float | None = None,
    mask: Tensor | None = None,
    draws: int = 1,
    return_errors: bool = False,
    backend: str = "auto",
) -> Tensor | LogRatio:
    """ell = mean over draws of -(timestep_weight / temperature) (e_theta - e_ref), (B,) float64.

    Differentiable in policy_pred (once; `backend="reference"` any number of times), so that any loss
    can be written over it. It is exactly 0 where policy and reference predict the same. float64
    whatever the predictions are: B numbers cost nothing, and a loss may subtract them. The arguments
    and the errors raised are those of `tglo.tgo_loss`; with return_errors, a `LogRatio`.
    """
    checks.check_prediction("policy_pred", policy_pred)
    rows, device = policy_pred.shape[0], policy_pred.device
    checks.check_draws(draws, rows)
    checks.check_like_policy("target", target, policy_pred)
    checks.check_reference(policy_pred, reference_pred, reference_error)
    checks.check_timestep_weight(timestep_weight, rows, device)
    checks.check_mask(mask, policy_pred)
    checks.check_number("temperature", temperature, above=0)

    policy_pred, target, reference_pred = promote(policy_pred, target, reference_pred)
    result = ops.log_ratio(
        ops.LossArguments(
            policy_pred,
            target,
            scores=torch.zeros(rows // draws, dtype=torch.float64, device=device),
            threshold=0.0,
            reference_pred=reference_pred,
            reference_error=None if reference_error is None else constant(reference_error),
            beta=1.0,
            temperature=float(temperature),
            confidence=0.0,
            timestep_weight=1.0 if timestep_weight is None else number(timestep_weight),
            mask=mask,
            draws=draws,
            reduction="none",
        ),
        backend,
    )
    if not return_errors:
        return result.log_ratio
    return LogRatio(result.log_ratio, result.policy_error.detach(), result.reference_error.detach())


def log_ratio_of_errors(
    policy_error: Tensor,
    reference_error: Tensor,
    *,
    temperature: float = 1.0,
    timestep_weight: Tensor | float | None = None,
) -> LogRatio:
    """The log-ratio where the errors themselves are given, (B,) each, of one draw a sample.

    policy_error is a differentiable error, such as `tglo.token_error`; reference_error gets no
    gradient. Exactly 0 where they are equal.
    """
    policy, other = policy_error.double(), reference_error.detach().double()
    weight = 1.0 if timestep_weight is None else timestep_weight
    ratio = reference.log_ratio(policy - other, temperature=temperature, timestep_weight=weight)
    return LogRatio(ratio, policy.detach(), other)


def policy_error(
    policy_pred: Tensor, target: Tensor, mask: Tensor | None = None, *, backend: str = "auto"
) -> Tensor:
    """e_theta = mean((policy_pred - target)^2) of every row, (rows, ...) -> (rows,) float64, with a
    gradient to policy_pred. `tglo.prediction_error` is the same without one.
    """
    checks.check_prediction("policy_pred", policy_pred)
    checks.check_like_policy("target", target, policy_pred)
    checks.check_mask(mask, policy_pred)
    policy_pred, target, _ = promote(policy_pred, target, None)
    return ops.policy_error(policy_pred, target, mask, backend=backend)
