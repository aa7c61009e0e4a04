"""Rows of logits in plain PyTorch: what the row kernels of the other backends compute.

A chunk of logits is (R, V), its row i the position `order[first + i]` of the flattened (B, N) batch.
Rows from `count` on (on the device: nobody waits for it) are there only because the host does not
know the count; they change no result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tglo import reference


def token_rows(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    order: Tensor,
    count: Tensor,
    first: int,
    log_prob: Tensor,
    logsumexp: Tensor,
) -> None:
    """Writes log_prob and logsumexp at the chunk's positions, both flat (B * N,); overwrites logits."""
    places, real = _places(logits, order, count, first)
    if bias is not None:
        logits += bias
    largest = logits.amax(1)
    tokens, known = _tokens(logits, targets[places])
    picked = logits.gather(1, tokens[:, None])[:, 0] - largest
    rest = logits.sub_(largest[:, None]).exp_().sum(1).log_()
    nothing = torch.where(known, 0.0, torch.nan)  # an unknown token is not passed over in silence
    log_prob.index_copy_(0, places, torch.where(real, picked - rest + nothing, 0.0))
    logsumexp.index_copy_(0, places, torch.where(real, largest + rest, 0.0))


def token_rows_loss(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    order: Tensor,
    count: Tensor,
    first: int,
    log_prob: Tensor,
    logsumexp: Tensor,
    mask: Tensor,
    reference_log_prob: Tensor | None,
    reference_error: Tensor | None,
    scores: Tensor,
    threshold: Tensor | None,
    threshold_value: float,
    beta: float,
    temperature: float,
    confidence: float,
    reduction: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`token_rows` of the last chunk, then the head over all positions: the reduced loss, r, the
    coefficient (B,) with d loss / d log_prob = coefficient at masked positions, and both errors.
    """
    token_rows(logits, bias, targets, order, count, first, log_prob, logsumexp)
    scores = scores.double()
    tau = threshold_value if threshold is None else threshold.double()
    result = reference.tgo_token_loss(
        log_prob.view_as(mask),
        mask,
        scores,
        tau,
        reference_log_prob=reference_log_prob,
        reference_error=reference_error,
        beta=beta,
        temperature=temperature,
        confidence=confidence,
    )
    slope = reference.loss_slope(result.implicit_score, scores, tau, confidence)
    share = 1.0 / max(len(scores), 1) if reduction == 1 else 1.0
    coefficient = share * beta / temperature * slope * reference.token_coefficient(mask)
    reduced = reference.reduce_loss(result.loss, ("none", "mean", "sum")[reduction])
    dtype = torch.promote_types(log_prob.dtype, torch.float32)
    error = result.reference_error
    return (
        reduced.to(dtype),
        result.implicit_score,
        coefficient,
        result.policy_error,
        error.clone() if error is reference_error else error,
    )


def token_rows_gradient(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    order: Tensor,
    count: Tensor,
    first: int,
    logsumexp: Tensor,
    grad: Tensor,
    gradient: Tensor,
) -> None:
    """gradient = grad ([v is the true token] - p(v)), (R, V), 0 in rows from `count` on; grad is flat
    (B * N,). gradient may be logits itself; logits are overwritten.
    """
    places, real = _places(logits, order, count, first)
    if bias is not None:
        logits += bias
    scale = torch.where(real, grad[places], 0.0)
    logits.sub_(logsumexp[places][:, None]).exp_().mul_(-scale[:, None])
    tokens, known = _tokens(logits, targets[places])
    logits.scatter_add_(1, tokens[:, None], torch.where(known, scale, 0.0)[:, None])
    # what was gathered for rows without a position may be NaN
    gradient.copy_(logits.masked_fill_(~real[:, None], 0.0))


def _places(logits: Tensor, order: Tensor, count: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Positions of the chunk's rows, and which of the rows stand for one."""
    rows = logits.shape[0]
    index = torch.arange(first, first + rows, device=logits.device)
    return order[first : first + rows], index < count


def _tokens(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Targets inside the vocabulary, and which of them were."""
    known = (targets >= 0) & (targets < logits.shape[1])
    return torch.where(known, targets, 0), known
