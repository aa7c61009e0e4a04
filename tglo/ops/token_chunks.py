"""Log-probabilities of masked tokens, and their gradients, without the logits of all tokens.

The masked rows of the hidden states go through the vocabulary in chunks of about 1,024: gather,
matrix product (cuBLAS on the GPU), one row kernel. Only a chunk's logits exist at a time; the
backward computes them again. Gradients of the weight and the bias are accumulated in float32 (of
float64 inputs in float64). Chunks depend on shapes alone and follow each other, so equal inputs give
equal bits.

How many positions are masked is known on the device only. On the CPU that costs nothing to ask. On a
GPU nobody waits for it: the host goes through as many rows as could be masked (`max_masked`, all
B * N without it), masked ones first, and the row kernels give the rest no weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_ROWS = 1024  # their float32 logits stay in an H100's cache at V = 8,192: 33 MB
# Of a chunk of a large vocabulary: with fewer the product only waits for the weight.
LEAST_ROWS = 128
CHUNK_LOGITS = 2**25
BLOCK_LOGITS = 2**22  # elements of the weight that are converted at a time on the CPU
HALVES = (torch.bfloat16, torch.float16)


def chunk_rows(vocabulary: int) -> int:
    """Return the number of rows whose logits exist at a time."""
    return min(CHUNK_ROWS, max(LEAST_ROWS, CHUNK_LOGITS // vocabulary))


class TokenInputs(NamedTuple):
    """The inputs, checked: hidden (B, N, D) and weight (V, D) of one dtype, bias (V,), targets (B, N)
    int64, mask (B, N) bool.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    mask: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of logits, log-probabilities and sums."""
        return torch.promote_types(self.hidden.dtype, torch.float32)

    def vector(self, value: float = 0.0) -> Tensor:
        return self.hidden.new_full((self.mask.numel(),), value, dtype=self.dtype)


class Chunks:
    """The masked rows of the hidden states in chunks, with the buffer of their logits."""

    def __init__(self, inputs: TokenInputs, max_masked: int | None) -> None:
        self.inputs = inputs
        self.order, self.count, self.exact = masked_positions(inputs.mask, max_masked)
        self.bias = None if inputs.bias is None else inputs.bias.to(inputs.dtype).contiguous()
        self.targets = inputs.targets.reshape(-1).contiguous()
        self.size = chunk_rows(inputs.weight.shape[0])
        rows = min(self.size, len(self.order))
        self.buffer = inputs.hidden.new_empty((rows, inputs.weight.shape[0]), dtype=inputs.dtype)
        self.firsts = range(0, len(self.order), self.size)

    def places(self, first: int) -> Tensor:
        return self.order[first : first + self.size]

    def arguments(self, first: int) -> tuple[Tensor | int | None, ...]:
        """Return what a row kernel takes between the logits and its results."""
        return self.bias, self.targets, self.order, self.count, first

    def rows(self, first: int) -> Tensor:
        """Return the rows (R, D) of the hidden states, from whatever layout they have."""
        hidden, places = self.inputs.hidden, self.places(first)
        length = hidden.shape[1]
        if hidden.stride(0) == length * hidden.stride(1):
            return hidden.flatten(0, 1).index_select(0, places)
        return hidden[places // length, places % length]

    def logits(self, rows: Tensor) -> Tensor:
        """Compute the logits (R, V) without the bias, in the buffer."""
        weight, out = self.inputs.weight, self.buffer[: len(rows)]
        if rows.dtype == out.dtype:
            torch.mm(rows, weight.t(), out=out)
        elif rows.is_cuda:
            torch.mm(rows, weight.t(), out_dtype=out.dtype, out=out)
        else:
            wide = rows.to(out.dtype)
            for start, block in self._blocks():
                torch.mm(wide, block.t(), out=out[:, start : start + len(block)])
        return out

    def through_weight(self, gradient: Tensor) -> Tensor:
        """Compute gradient (R, V) times weight: (R, D), at least float32."""
        weight, dtype = self.inputs.weight, self.inputs.dtype
        if gradient.dtype == weight.dtype != dtype:
            return torch.mm(gradient, weight, out_dtype=dtype)
        if weight.dtype == dtype:
            return torch.mm(gradient, weight)
        out = gradient.new_zeros((len(gradient), weight.shape[1]))
        for start, block in self._blocks():
            out.addmm_(gradient[:, start : start + len(block)], block)
        return out

    def _blocks(self) -> Any:
        """Yield parts of the weight in the dtype of the logits, with the first token of each."""
        weight = self.inputs.weight
        step = max(1, BLOCK_LOGITS // weight.shape[1])
        for start in range(0, weight.shape[0], step):
            yield start, weight[start : start + step].to(self.inputs.dtype)


def masked_positions(mask: Tensor, max_masked: int | None) -> tuple[Tensor, Tensor, bool]:
    """Return the positions in the flattened mask, masked ones first and in order; the number of masked
    ones, 0-d int64 on the device; and whether the positions are exactly the masked ones.
    """
    if mask.is_cuda:
        return uncounted_positions(mask, max_masked)
    order = mask.reshape(-1).nonzero().squeeze(1)
    if max_masked is not None and len(order) > max_masked:
        raise ValueError(
            f"{len(order)} positions are masked but max_masked is {max_masked}; pass at least the "
            "largest number of masked positions of a batch, or None"
        )
    return order, torch.tensor(len(order), device=mask.device), True


def uncounted_positions(mask: Tensor, max_masked: int | None) -> tuple[Tensor, Tensor, bool]:
    """Return the same without waiting for the count: as many positions as could be masked."""
    flat = mask.reshape(-1)
    order = torch.sort(flat.to(torch.uint8), descending=True, stable=True).indices
    return order[:max_masked], flat.sum(), False


def forward(
    inputs: TokenInputs, max_masked: int | None, row_kernel: Callable[..., None]
) -> tuple[Tensor, Tensor]:
    """Compute log_prob and logsumexp, (B, N)."""
    chunks = Chunks(inputs, max_masked)
    log_prob, logsumexp = inputs.vector(), inputs.vector()
    if not chunks.exact and len(chunks.order) < log_prob.numel():
        # Positions beyond max_masked are not computed. The host cannot know; the result shows it.
        log_prob.masked_fill_(chunks.count > len(chunks.order), torch.nan)
    for first in chunks.firsts:
        logits = chunks.logits(chunks.rows(first))
        row_kernel(logits, *chunks.arguments(first), log_prob, logsumexp)
    return log_prob.view_as(inputs.mask), logsumexp.view_as(inputs.mask)


def backward(
    inputs: TokenInputs,
    max_masked: int | None,
    logsumexp: Tensor,
    grad: Tensor,
    needs: tuple[bool, bool, bool],
    row_kernel: Callable[..., None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of hidden, weight and bias from that of log_prob (B, N); those that are not
    needed are empty.
    """
    hidden, weight, dtype = inputs.hidden, inputs.weight, inputs.dtype
    chunks = Chunks(inputs, max_masked)
    narrow = hidden.is_cuda and hidden.dtype in HALVES
    grad, logsumexp = (x.to(dtype).reshape(-1).contiguous() for x in (grad, logsumexp))
    scale = None
    if narrow and hidden.dtype == torch.float16:
        scale = _scale(grad, inputs.mask.reshape(-1))
    if scale is not None:
        grad = grad * scale
    grad_hidden = hidden.new_zeros(hidden.shape if needs[0] else 0)
    grad_weight = weight.new_zeros(weight.shape if needs[1] else 0, dtype=dtype)
    grad_bias = weight.new_zeros(weight.shape[0] if needs[2] else 0, dtype=dtype)
    for first in chunks.firsts:
        rows = chunks.rows(first)
        logits = chunks.logits(rows)
        gradient = logits.new_empty(logits.shape, dtype=hidden.dtype) if narrow else logits
        row_kernel(logits, *chunks.arguments(first), logsumexp, grad, gradient)
        if needs[0]:
            through = chunks.through_weight(gradient)
            if scale is not None:
                through /= scale
            places = chunks.places(first)
            grad_hidden.view(-1, hidden.shape[2]).index_copy_(0, places, through.to(hidden.dtype))
        if needs[1]:
            if not chunks.exact:  # 0 times what lies there must be 0
                index = torch.arange(first, first + len(rows), device=rows.device)
                rows.masked_fill_((index >= chunks.count)[:, None], 0.0)
            if narrow:
                torch.addmm(grad_weight, gradient.t(), rows, out_dtype=dtype, out=grad_weight)
            else:
                grad_weight.addmm_(gradient.t(), rows.to(dtype))
        if needs[2]:
            grad_bias += gradient.sum(0, dtype=dtype)
    if scale is not None:
        grad_weight /= scale
        grad_bias /= scale
    bias = weight if inputs.bias is None else inputs.bias
    return grad_hidden, grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)


def _scale(grad: Tensor, mask: Tensor) -> Tensor:
    """Return the factor that brings the largest masked gradient to 4096: float16 then also holds what
    is 10^-11 of it.
    """
    known = torch.where(mask, grad, 0.0)  # elsewhere it may be NaN
    largest = known.abs().max() if grad.numel() else grad.new_ones(())
    # Below 1.2e-35 (every sample at r = 80 on its right side) the quotient itself would be inf.
    return torch.where(largest == 0, 1.0, 4096.0 / largest.clamp(min=1e-30))
