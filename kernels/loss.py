"""Launches the Triton kernels of the TGO loss, kernels/loss_kernels.py: the operators of tglo/ops/loss.py."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import triton
from torch import Tensor

from tglo.kernels.loss_kernels import backward, forward

BLOCK = 2048  # elements of one step
STEPS = 4  # steps of one part
SAMPLES = 16  # samples that the finish takes at once
PARTS = 32  # parts that it adds at once
WARPS = 8
REGISTERS = 128  # without a limit ptxas aims at more programs per multiprocessor and spills


_counters: dict[tuple[torch.device, int], Tensor] = {}
MOST_STREAMS = 64  # whose counters are kept


def _arrival_counter(device: torch.device) -> Tensor:
    """Return an int32 zero that each launch leaves as zero: one per stream, since launches there take turns.

    A CUDA graph gets its own, with its zeroing in the graph: it may be replayed on any stream.
    """
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return torch.zeros(1, dtype=torch.int32, device=device)
    stream = torch.cuda.current_stream(device)
    key = device, stream.cuda_stream
    counter = _counters.get(key)
    if counter is None:
        if len(_counters) == MOST_STREAMS:
            return torch.zeros(1, dtype=torch.int32, device=device)
        counter = _from_another_thread(lambda: torch.empty(1, dtype=torch.int32, device=device))
        stream.wait_stream(torch.cuda.default_stream(device))  # which may still use that memory
        _counters[key] = counter.zero_()
    return counter


def _from_another_thread(make: Callable[[], Tensor]) -> Tensor:
    """Return `make()`, called where no pool of a CUDA graph takes the memory.

    Such a pool is given to a thread (torch.compile's mode "reduce-overhead" warms up in one) and refuses
    what outlives the call.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()


def _stride_of(tensor: Tensor | None) -> int:
    """Return the stride; 0 for a tensor of one number, which is meant for every row."""
    return 0 if tensor is None or tensor.ndim == 0 else tensor.stride(0)


def _mask_numbers(mask: Tensor | None, inner: int) -> tuple[int, int, int]:
    """Return row stride, inner and period."""
    if mask is None:
        return 0, 1, 1
    return (0 if mask.shape[0] == 1 else mask.shape[1]), inner, mask.shape[1]


def _parts(rows: Tensor) -> int:
    return triton.cdiv(rows[0].numel(), BLOCK * STEPS)


def tgo_loss(
    policy_pred: Tensor,
    target: Tensor,
    reference_pred: Tensor | None,
    reference_error: Tensor | None,
    scores: Tensor,
    threshold: Tensor | None,
    timestep_weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    mask_inner: int,
    over_elements: bool,
    threshold_value: float,
    timestep_weight_value: float,
    sample_weight_value: float,
    beta: float,
    temperature: float,
    confidence: float,
    draws: int,
    reduction: int,
) -> tuple[Tensor, ...]:
    """tglo::tgo_loss for tensors that share one layout with dense rows; see tglo/ops/loss.py."""
    rows = policy_pred.shape[0]
    batch = rows // draws
    device, reduced = policy_pred.device, reduction != 0
    loss = torch.empty(() if reduced else (batch,), dtype=torch.float32, device=device)
    coefficient = torch.empty(rows, dtype=torch.float64, device=device)
    statistics = torch.empty(batch + 2 * rows, dtype=torch.float64, device=device)
    if rows == 0:
        return loss.zero_(), coefficient, statistics
    implicit_score, *errors = statistics.split((batch, rows, rows))
    elements, parts = policy_pred[0].numel(), _parts(policy_pred)
    partials = torch.empty(3 * rows * parts, dtype=torch.float64, device=device)
    with torch.cuda.device_of(policy_pred):
        forward[(rows * parts,)](
            policy_pred,
            target,
            reference_pred,
            None if reference_error is None else reference_error.contiguous(),
            scores.contiguous(),
            threshold,
            timestep_weight,
            sample_weight,
            mask,
            partials,
            _arrival_counter(device),
            loss,
            implicit_score,
            coefficient,
            *errors,
            rows,
            elements,
            parts,
            draws,
            _stride_of(threshold),
            _stride_of(timestep_weight),
            _stride_of(sample_weight),
            *_mask_numbers(mask, mask_inner),
            threshold_value,
            timestep_weight_value,
            sample_weight_value,
            beta,
            1.0 / temperature,
            confidence,
            1.0 / batch if reduction == 1 else 1.0,
            1.0 / elements,
            1.0 / draws,
            REDUCED=reduced,
            BY_MASK=mask is not None and not over_elements,
            BLOCK=BLOCK,
            STEPS=STEPS,
            SAMPLES=SAMPLES,
            PARTS=PARTS,
            num_warps=WARPS,
            maxnreg=REGISTERS,
        )
    return loss, coefficient, statistics


def tgo_loss_backward(
    grad_loss: Tensor,
    coefficient: Tensor,
    policy_pred: Tensor,
    target: Tensor,
    mask: Tensor | None,
    mask_inner: int,
    draws: int,
) -> Tensor:
    """tglo::tgo_loss_backward for tensors that share one layout with dense rows."""
    gradient = torch.empty_like(policy_pred)
    rows = policy_pred.shape[0]
    if rows == 0:
        return gradient
    parts = _parts(policy_pred)
    with torch.cuda.device_of(policy_pred):
        backward[(rows * parts,)](
            grad_loss,
            coefficient,
            policy_pred,
            target,
            mask,
            gradient,
            policy_pred[0].numel(),
            parts,
            draws,
            _stride_of(grad_loss),
            *_mask_numbers(mask, mask_inner),
            BLOCK=BLOCK,
            STEPS=STEPS,
            num_warps=WARPS,
        )
    return gradient


def tgo_loss_and_grad(*arguments: Any) -> tuple[Tensor, ...]:
    """tglo::tgo_loss_and_grad as the two launches above; the CUDA kernel needs one."""
    tensors, (outer, outer_value), numbers = arguments[:9], arguments[9:11], arguments[11:]
    policy_pred, target, mask = tensors[0], tensors[1], tensors[8]
    loss, coefficient, statistics = tgo_loss(*tensors, *numbers)
    if outer is None:
        outer = torch.full((), outer_value, dtype=torch.float64, device=loss.device)
    gradient = tgo_loss_backward(
        outer, coefficient, policy_pred, target, mask, numbers[0], numbers[-2]
    )
    return loss, coefficient, statistics, gradient


def prediction_error(
    prediction: Tensor, target: Tensor, mask: Tensor | None, mask_inner: int, over_elements: bool
) -> Tensor:
    """tglo::prediction_error: the sums of `tgo_loss`, so that equal predictions give equal bits."""
    zeros = torch.zeros(prediction.shape[0], dtype=torch.float64, device=prediction.device)
    tensors = prediction, target, None, zeros, zeros, None, None, None, mask
    numbers: tuple[Any, ...] = (mask_inner, over_elements, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1, 1)
    rows = len(zeros)
    return tgo_loss(*tensors, *numbers)[2][rows : 2 * rows]
