"""The losses of masked generative models (MaskGIT, aMUSEd, Meissonic), arXiv 2605.04653: what users
call.

They take the hidden states before the vocabulary head and the head's weight, not its logits: those
of all tokens, (B, N, V), are never held.
"""

from __future__ import annotations

from typing import Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor

from tglo import reference
from tglo.losses import checks, token_checks
from tglo.losses.arguments import SampleOptions, scoring
from tglo.losses.results import Reduction, TGOStats, statistics
from tglo.ops import tokens as token_ops
from tglo.ops.dtypes import wide
from tglo.ops.token_chunks import TokenInputs


class TokenOptions(TypedDict, total=False):
    """Keywords of `token_log_prob` and `token_error`."""

    bias: Tensor | None
    max_masked: int | None
    backend: str


class TokenLossOptions(TokenOptions, SampleOptions, total=False):
    """Keywords of `tgo_token_loss`."""

    reference_hidden: Tensor | None
    reference_weight: Tensor | None
    reference_bias: Tensor | None
    reference_log_prob: Tensor | None
    reference_error: Tensor | None
    beta: float
    temperature: float
    confidence: float
    reduction: Reduction


def token_log_prob(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    mask: Tensor,
    *,
    bias: Tensor | None = None,
    max_masked: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Compute log p(true token) at masked positions, 0 elsewhere, without the logits of all tokens.

    p = softmax(hidden @ weight.T + bias) over the vocabulary.

    Args:
        hidden: (B, N, D) floating point, any strides: what goes into the vocabulary head.
        weight: (V, D), the head's weight; for tied embeddings the embedding's.
        targets: (B, N) int64, the true tokens, in [0, V) where masked; elsewhere they are not looked
            at. Out of it a masked position's result is NaN.
        mask: (B, N) bool, True where a token is masked, that is predicted.
        bias: (V,) or None.
        max_masked: on a GPU, an upper bound on the number of masked positions in the batch, if the
            caller knows one: rows beyond it are not computed. Without it all B * N rows go through
            the matrix product, because the host does not wait for the count. If more positions are
            masked than that, the result is NaN (on the CPU: ValueError). On the CPU the masked
            rows alone are computed with or without it.
        backend: "auto", or one of `tglo.ops.BACKENDS` to insist on it.

    hidden and weight of several dtypes are promoted to the one that holds both; cast the weight to
    the half precision of the hidden states for the speed of it. Logits, log-probabilities and sums
    are float32; the gradient of the weight is accumulated in float32. float64 inputs are computed by
    the reference backend, in float64.

    Differentiable once in hidden, weight and bias: the backward computes the logits again, a chunk of
    about 1,024 rows at a time. Results are bitwise equal from run to run.

    Returns:
        (B, N) float32, float64 if the inputs are.

    Raises:
        TypeError, ValueError: naming the value, the limit and the remedy.
        RuntimeError: when `backend` insists on one that is not available; when a second derivative
            is taken (`tglo.reference.token_log_prob` has one).
    """
    inputs = _checked(TokenInputs(hidden, weight, bias, targets, mask), max_masked)
    return token_ops.token_log_prob(inputs, max_masked, backend)


def token_error(
    hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor, **options: Unpack[TokenOptions]
) -> Tensor:
    """Compute e = -mean of `token_log_prob` over each sample's mask: (B,) float64, differentiable.

    It stands where continuous models have the mean square error: ell = -(e_theta - e_ref) / T. This
    is also what to cache of a reference and to pass as `reference_error`: `tgo_token_loss` computes it
    in the same way, so that a policy that still equals its reference has a log-ratio of
    exactly 0 in the same batch (in another batch a matrix product may round otherwise, by about
    1e-7). A sample without masked positions has e = 0 and no gradient. Arguments, options and errors
    raised are those of `token_log_prob`.
    """
    log_prob = token_log_prob(hidden, weight, targets, mask, **options)
    return reference.token_error(log_prob, mask)


@overload
def tgo_token_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    mask: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    return_stats: Literal[False] = ...,
    **options: Unpack[TokenLossOptions],
) -> Tensor: ...
@overload
def tgo_token_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    mask: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    return_stats: Literal[True],
    **options: Unpack[TokenLossOptions],
) -> tuple[Tensor, TGOStats]: ...
def tgo_token_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    mask: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    bias: Tensor | None = None,
    reference_hidden: Tensor | None = None,
    reference_weight: Tensor | None = None,
    reference_bias: Tensor | None = None,
    reference_log_prob: Tensor | None = None,
    reference_error: Tensor | None = None,
    beta: float = 1.0,
    temperature: float = 1.0,
    confidence: float = 5.0,
    sample_weight: Tensor | float | None = None,
    scored: Tensor | None = None,
    reduction: Reduction = "mean",
    max_masked: int | None = None,
    return_stats: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, TGOStats]:
    """Compute the TGO loss of masked generative models, in one call.

    With e = `token_error` of the policy and of the reference, z = +1 where score >= threshold and -1
    elsewhere:

        r = beta * -(e_theta - e_ref) / temperature
        loss = sample_weight * (1 + confidence * |score - threshold|) * softplus(-z r)

    Args:
        hidden, weight, targets, mask, bias, max_masked, backend: those of `token_log_prob`; the
            policy's hidden, weight and bias get gradients.
        scores, threshold, confidence, sample_weight, scored: those of `tgo_loss`.
        reference_hidden: (B, N, D'), the reference's hidden states for the same masked tokens,
            without a gradient. It goes through reference_weight (V, D') and reference_bias; if both
            are left out, through the policy's weight and bias, detached: right where the head is
            frozen or shared, wrong where the policy's head is trained.
        reference_log_prob: (B, N), the reference's `token_log_prob`.
        reference_error: (B,), the reference's cached `token_error`, preferably float64. Exactly one of
            reference_hidden, reference_log_prob and reference_error.
        beta, temperature: above 0.
        reduction: "mean" or "sum" over samples, or "none".
        return_stats: also return `TGOStats`; its errors are token errors.

    A sample without masked positions has e_theta - e_ref = 0 and no gradient; its loss is that of
    r = 0. The log-ratio is exactly 0 where the reference's inputs equal the policy's.

    Returns:
        The loss, 0-d or (B,), in float32 (float64 if the inputs are); with return_stats,
        (loss, TGOStats).

    Raises:
        TypeError, ValueError, RuntimeError: where `token_log_prob` raises them.
    """
    inputs = _checked(TokenInputs(hidden, weight, bias, targets, mask), max_masked)
    token_checks.check_token_reference(
        *(hidden, mask, reference_weight, reference_bias),
        reference_hidden=reference_hidden,
        reference_log_prob=reference_log_prob,
        reference_error=reference_error,
    )
    checks.check_number("temperature", temperature, above=0)
    numbers = beta, confidence, reduction, sample_weight, scored
    known = scoring(scores, threshold, len(mask), hidden.device, *numbers, other="hidden")

    if reference_hidden is not None:
        if reference_weight is None:
            reference_weight = weight.detach()
            if reference_bias is None and bias is not None:
                reference_bias = bias.detach()
        other = TokenInputs(reference_hidden, reference_weight, reference_bias, targets, mask)
        other = _checked(other, max_masked, prefix="reference_")
        # Both, or the ratio would have the precision of float32.
        if torch.float64 in (inputs.hidden.dtype, other.hidden.dtype):
            inputs, other = _in_float64(inputs), _in_float64(other)
        with torch.no_grad():
            reference_log_prob = token_ops.token_log_prob(other, max_masked, backend)
    log_prob = token_ops.token_log_prob(inputs, max_masked, backend)
    ratio = reference.token_log_ratio(
        log_prob,
        mask,
        reference_log_prob=reference_log_prob,
        reference_error=None if reference_error is None else wide(reference_error),
        temperature=temperature,
    )
    result = known.by_reference(ratio, log_prob.dtype)
    return (result.loss, statistics(result, known)) if return_stats else result.loss


def _checked(inputs: TokenInputs, max_masked: int | None, prefix: str = "") -> TokenInputs:
    """Check the inputs and return them in one dtype."""
    hidden, weight, bias, targets, mask = inputs
    token_checks.check_hidden(f"{prefix}hidden", hidden)
    token_checks.check_vocabulary(prefix, weight, bias, hidden)
    token_checks.check_tokens(targets, mask, hidden)
    token_checks.check_max_masked(max_masked)
    dtype = torch.promote_types(hidden.dtype, weight.dtype)
    if bias is not None and bias.dtype == torch.float64:
        dtype = torch.float64
    return inputs._replace(hidden=hidden.to(dtype), weight=weight.to(dtype))


def _in_float64(inputs: TokenInputs) -> TokenInputs:
    return inputs._replace(hidden=inputs.hidden.double(), weight=inputs.weight.double())
