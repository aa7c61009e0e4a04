"""The TGO loss of diffusion and flow models, and the error that it compares."""

from __future__ import annotations

from typing import Literal, Unpack, overload

from torch import Tensor

from tglo import ops
from tglo.losses import checks
from tglo.losses.arguments import LossOptions, loss_arguments
from tglo.losses.common_case import common_arguments
from tglo.losses.masks import mask_weights
from tglo.losses.results import MaskMean, TGOStats, statistics
from tglo.ops.dtypes import number, promote


@overload
def tgo_loss(
    policy_pred: Tensor,
    target: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    return_stats: Literal[False] = ...,
    backend: str = ...,
    **options: Unpack[LossOptions],
) -> Tensor: ...
@overload
def tgo_loss(
    policy_pred: Tensor,
    target: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    return_stats: Literal[True],
    backend: str = ...,
    **options: Unpack[LossOptions],
) -> tuple[Tensor, TGOStats]: ...
def tgo_loss(
    policy_pred: Tensor,
    target: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    return_stats: bool = False,
    backend: str = "auto",
    **options: Unpack[LossOptions],
) -> Tensor | tuple[Tensor, TGOStats]:
    """Compute the TGO loss of diffusion and flow models.

    With e the mean square error of a prediction against the target, z = +1 where score >= threshold
    and -1 elsewhere:

        r = beta * mean over draws of -(timestep_weight / temperature) * (e_theta - e_ref)
        loss = sample_weight * (1 + confidence * |score - threshold|) * softplus(-z r)

    Args:
        policy_pred: (B * draws, ...) floating point; row i belongs to sample i // draws. The only
            argument that gets a gradient.
        target: like policy_pred: the noise, velocity or sample that training regresses on.
        scores: (B,) real, in float64 inside: integers are exact up to 2^53. bool is 1.0 and 0.0, for a
            threshold of 0.5. A NaN score is not detected here (that would wait for the device); it
            gives a NaN loss, unless `scored` is False there.
        threshold: a number, a 0-d tensor, or (B,) for a threshold per sample.
        return_stats: also return `TGOStats`.
        backend: "auto", or one of `tglo.ops.BACKENDS` to insist on it.

    Options:
        reference_pred: like policy_pred, without a gradient; the reference's prediction for the
            same draws, in memory of its own: policy_pred.detach() is refused.
        reference_error: (B * draws,), the reference's cached mean square error, preferably float64
            (`prediction_error` computes it). Exactly one of reference_pred and reference_error.
        beta = 1.0, temperature = 1e-3: strength of the implicit reward and variance of the Gaussian
            that stands for a step; above 0.
        confidence = 5.0: c >= 0, in units of 1 / score. With math.inf the factor is |score - threshold|, to
            which (1 + c |score - threshold|) / c tends.
        sample_weight = None: >= 0, a number, a 0-d tensor or (B,), weighs the samples' losses; None is
            1. "mean" still divides by B. Where it is 0 the score is not looked at, be it NaN. Bad
            values and trailing ones as in timestep_weight.
        scored = None: (B,) bool; None is True. Where it is False the score is not looked at, be it NaN;
            the loss is 0 and so is the gradient, if the prediction is finite. "mean" divides by the
            number of scored samples (0 with a graph and a zero gradient if there are none); nothing
            waits for that number.
        timestep_weight = None: omega >= 0, a number or (B * draws,), also with trailing ones, (B * draws,
            1, 1, 1); None is 1. What is negative, infinite or NaN raises on the CPU; on a GPU, where
            looking would wait, NaN gives a NaN loss and infinity a NaN gradient.
        mask = None: non-negative weights m of the elements, bool or real (in float32), with
            policy_pred's number of dimensions, broadcast to it (such as (B, 1, H, W) for inpainting
            or padding): e = sum m (p - y)^2 / sum m. What lies under a 0 is not looked at. A row of
            zeros has e_theta - e_ref = 0 and no gradient. Weights that are negative, infinite or
            NaN raise on the CPU and make their row's loss NaN on a GPU.
        mask_mean = "mask": "elements" divides by the number of a row's elements in place of sum m, as
            trainers do that multiply the squares by a mask and then take the mean.
        draws = 1: number of draws (timestep and noise) per sample; they average inside the sigmoid.
        reduction = "mean": "mean" or "sum" over samples, or "none". The mean of an empty batch is 0
            with a zero gradient, with a mask and without.

    Predictions of several dtypes are promoted to the one that holds them all (torch.promote_types);
    sums, scores, thresholds and weights are kept in float64. float64 predictions are computed by
    the reference backend.

    Returns:
        The loss, 0-d or (B,), in float32 (float64 if the predictions are); with return_stats,
        (loss, TGOStats).

    Raises:
        TypeError, ValueError: naming the value, the limit and the remedy.
        RuntimeError: when `backend` insists on one that is not available; when a second derivative
            is taken.
    """
    tensors = policy_pred, target, scores, threshold
    predictions, scoring = common_arguments(*tensors, options) or loss_arguments(
        *tensors, **options
    )
    result = ops.tgo_loss(predictions, scoring, backend)
    return (result.loss, statistics(result, scoring)) if return_stats else result.loss


def loss_and_grad(
    policy_pred: Tensor,
    target: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    loss_scale: Tensor | float = 1.0,
    return_stats: bool = False,
    backend: str = "auto",
    **options: Unpack[LossOptions],
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, TGOStats]:
    """Compute the TGO loss and its gradient in one launch, for loops that know their loss scale.

        loss, gradient = loss_and_grad(policy_pred, target, scores, threshold, ...)
        policy_pred.backward(gradient)

    The gradient is loss_scale * d loss / d policy_pred, like policy_pred in shape and layout and of
    the promoted dtype of the predictions; with reduction="none" it is that of the losses' sum.
    loss_scale is a number or a 0-d tensor: the scale of a gradient scaler, 1 / accumulation steps.
    The other arguments and errors are those of `tgo_loss`. Nothing here is recorded by autograd.

    Returns:
        (loss, gradient), with return_stats (loss, gradient, TGOStats); the loss is not scaled.
    """
    tensors = policy_pred, target, scores, threshold
    predictions, scoring = common_arguments(*tensors, options) or loss_arguments(
        *tensors, **options
    )
    checks.check_loss_scale(loss_scale, policy_pred.device)
    scale = number(loss_scale)
    gradient, result = ops.tgo_loss_and_grad(predictions, scoring, scale, backend)
    if return_stats:
        return result.loss, gradient, statistics(result, scoring)
    return result.loss, gradient


def prediction_error(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    mask_mean: MaskMean = "mask",
    backend: str = "auto",
) -> Tensor:
    """Compute the mean square error of every row, (rows, ...) -> (rows,) float64, without a gradient.

    This is what to cache of a reference and to pass as `reference_error`: it is summed in the same
    order as in `tgo_loss`, so that a policy that still equals its reference has a log-ratio of
    exactly 0.
    """
    checks.check_prediction("prediction", prediction)
    checks.check_like_policy("target", target, prediction)
    prediction, target, _ = promote(prediction.detach(), target, None)
    checks.check_mask_mean(mask_mean)
    weights = mask_weights(mask, prediction)
    return ops.prediction_error(prediction, target, weights, mask_mean, backend=backend).detach()
