"""Rows of logits in plain PyTorch: what the row kernels of the other backends compute.

A chunk of logits is (R, V), its row i the position `order[first + i]` of the flattened (B, N) batch.
Rows from `count` on (on the device: nobody waits for it) are there only because the host does not
know the count; they change no result.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    """Write log_prob and logsumexp at the chunk's positions, both flat (B * N,); overwrite logits."""
    places, real, tokens, known = _begin(logits, bias, targets, order, count, first)
    largest = logits.amax(1)
    picked = logits.gather(1, tokens[:, None])[:, 0] - largest
    rest = logits.sub_(largest[:, None]).exp_().sum(1).log_()
    nothing = torch.where(known, 0.0, torch.nan)  # an unknown token is not passed over in silence
    log_prob.index_copy_(0, places, torch.where(real, picked - rest + nothing, 0.0))
    logsumexp.index_copy_(0, places, torch.where(real, largest + rest, 0.0))


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
    """Write gradient = grad ([v is the true token] - p(v)), (R, V), 0 in rows from `count` on; grad is flat
    (B * N,). gradient may be logits itself; logits are overwritten.
    """
    places, real, tokens, known = _begin(logits, bias, targets, order, count, first)
    scale = torch.where(real, grad[places], 0.0)
    logits.sub_(logsumexp[places][:, None]).exp_().mul_(-scale[:, None])
    logits.scatter_add_(1, tokens[:, None], torch.where(known, scale, 0.0)[:, None])
    # what was gathered for rows without a position may be NaN
    gradient.copy_(logits.masked_fill_(~real[:, None], 0.0))


def _begin(
    logits: Tensor, bias: Tensor | None, targets: Tensor, order: Tensor, count: Tensor, first: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Add the bias; return the positions of the chunk's rows, which of the rows stand for one, their true
    tokens (0 in place of one outside the vocabulary), and which tokens were inside.
    """
    if bias is not None:
        logits += bias
    rows, vocabulary = logits.shape
    places = order[first : first + rows]
    real = torch.arange(first, first + rows, device=logits.device) < count
    tokens = targets[places]
    known = (tokens >= 0) & (tokens < vocabulary)
    return places, real, torch.where(known, tokens, 0), known
