"""The differentiable log-ratio and policy error over the fused kernels: what objectives are made of.

One launch forward (the operator of `tglo.tgo_loss`) and one backward (its backward), whatever the
loss that is written over them.
"""

from __future__ import annotations

from typing import Literal, Unpack, overload

from torch import Tensor

from tglo import ops, reference
from tglo.losses import checks, samples
from tglo.losses.arguments import RatioOptions, predictions
from tglo.losses.masks import mask_weights
from tglo.losses.results import MaskMean
from tglo.ops.dtypes import promote
from tglo.reference import LogRatio


@overload
def log_ratio(
    policy_pred: Tensor,
    target: Tensor,
    *,
    return_errors: Literal[False] = ...,
    backend: str = ...,
    **options: Unpack[RatioOptions],
) -> Tensor: ...
@overload
def log_ratio(
    policy_pred: Tensor,
    target: Tensor,
    *,
    return_errors: Literal[True],
    backend: str = ...,
    **options: Unpack[RatioOptions],
) -> LogRatio: ...
def log_ratio(
    policy_pred: Tensor,
    target: Tensor,
    *,
    return_errors: bool = False,
    backend: str = "auto",
    **options: Unpack[RatioOptions],
) -> Tensor | LogRatio:
    """Compute ell = mean over draws of -(timestep_weight / temperature) (e_theta - e_ref), (B,) float64.

    Differentiable in policy_pred (once; `backend="reference"` any number of times), so that any loss
    can be written over it. It is exactly 0 where policy and reference predict the same. float64
    whatever the predictions are: B numbers cost nothing, and a loss may subtract them. The options
    (reference_pred, reference_error, temperature, timestep_weight, mask, mask_mean, draws) and the errors raised
    are those of `tglo.tgo_loss`; with return_errors, the result is a `LogRatio`.
    """
    result = ops.log_ratio(predictions(policy_pred, target, **options), backend)
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
    """Compute the log-ratio from the errors themselves, (B,) each, one draw a sample.

    policy_error is a differentiable error, such as `tglo.token_error`; reference_error gets no
    gradient. Exactly 0 where they are equal. Errors raised are those of `tglo.tgo_loss`.
    """
    checks.check_prediction("policy_error", policy_error)
    rows, device = policy_error.shape[0], policy_error.device
    checks.check_vector("policy_error", policy_error, rows, "sample", device)
    checks.check_vector("reference_error", reference_error, rows, "sample", device, "policy_error")
    checks.check_number("temperature", temperature, above=0)
    weight = 1.0 if timestep_weight is None else samples.flat(timestep_weight)
    checks.check_timestep_weight(weight, rows, device)
    policy, other = policy_error.double(), reference_error.detach().double()
    ratio = reference.log_ratio(policy - other, temperature=temperature, timestep_weight=weight)
    return LogRatio(ratio, policy.detach(), other)


def policy_error(
    policy_pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    mask_mean: MaskMean = "mask",
    backend: str = "auto",
) -> Tensor:
    """Compute e_theta = mean((policy_pred - target)^2) of every row, (rows, ...) -> (rows,) float64,
    with a gradient to policy_pred. `tglo.prediction_error` is the same without one.
    """
    checks.check_prediction("policy_pred", policy_pred)
    checks.check_like_policy("target", target, policy_pred)
    policy_pred, target, _ = promote(policy_pred, target, None)
    checks.check_mask_mean(mask_mean)
    weights = mask_weights(mask, policy_pred)
    return ops.prediction_error(policy_pred, target, weights, mask_mean, backend=backend)
