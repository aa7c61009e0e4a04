"""Memory layouts that the kernels take: rows dense in memory, the same for all predictions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _memory_order(tensor: Tensor) -> list[int]:
    """Return the dimensions after the first, outermost in memory first."""
    if tensor.is_contiguous():
        return list(range(1, tensor.ndim))
    return sorted(range(1, tensor.ndim), key=lambda d: tensor.stride(d), reverse=True)


def _rows_are_dense(tensor: Tensor) -> bool:
    """Return True if every row is one stretch of memory without gaps or overlap, and rows follow each
    other.
    """
    inner = sorted(
        (stride, size)
        for stride, size in zip(tensor.stride()[1:], tensor.shape[1:], strict=True)
        if size != 1
    )
    expected = 1
    for stride, size in [*inner, (tensor.stride(0), tensor.shape[0])]:
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def share_layout(first: Tensor, *others: Tensor | None) -> list[Tensor]:
    """Return the tensors in one memory layout with dense rows: the first's if it has one, else
    contiguous.

    Nothing is copied when they share such a layout already (contiguous, channels_last, any dense
    permutation). None stays None.
    """
    if not first.is_contiguous() and not _rows_are_dense(first):
        first = first.contiguous()
    strides = first.stride()
    shared: list[Tensor] = [first]
    for tensor in others:
        if tensor is not None and tensor.stride() != strides:
            tensor = torch.empty_like(first).copy_(tensor)
        shared.append(tensor)  # type: ignore[arg-type]
    return shared


def memory_mask(mask: Tensor, like: Tensor) -> tuple[Tensor, int]:
    """Return a mask that broadcasts to `like`, in the order of its memory: (weights, inner).

    weights is (rows or 1, period) float32, contiguous: element i of a row in memory has weight
    weights[row, (i // inner) % period]. Dimensions along which the mask does not vary are not
    written out where they are the outermost or the innermost ones of a row.
    """
    mask = mask.detach()
    if mask.ndim != like.ndim:
        mask = mask.reshape((1,) * (like.ndim - mask.ndim) + mask.shape)
    rows, whole = mask.shape[0], like.shape
    order = [d for d in _memory_order(like) if whole[d] != 1]
    while order and mask.shape[order[0]] == 1:
        order.pop(0)
    inner = 1
    while order and mask.shape[order[-1]] == 1:
        inner *= whole[order.pop()]
    sizes = [rows, *(whole[d] if d in order else 1 for d in range(1, like.ndim))]
    if mask.shape != torch.Size(sizes):
        mask = mask.expand(sizes)
    if order != sorted(order):
        fixed = [d for d in range(1, like.ndim) if d not in order]
        mask = mask.permute(0, *order, *fixed)
    if mask.dtype != torch.float32:
        mask = mask.to(torch.float32)
    period = math.prod(sizes[1:])  # -1 would be ambiguous of no rows
    return mask.reshape(rows, period).contiguous(), inner
