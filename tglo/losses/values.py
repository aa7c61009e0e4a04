"""Checks that look at memory and at numbers: on the CPU, where they are at hand. Nothing here waits for a
GPU, and under torch.compile, torch.func and on the meta device there is nothing to look at.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FEW = 64  # up to here a list is quicker than a reduction


def check_other_memory(name: str, reference: Tensor, policy: Tensor, policy_name: str) -> None:
    """Refuse a reference that is the policy's tensor, or lies in the same memory: they start at one place,
    or both are contiguous and meet. Interleaved views, such as x[..., 0] and x[..., 1], are not looked into.
    """
    if reference is policy:
        raise ValueError(
            f"{name} is the very tensor passed as {policy_name}, so the log-ratio would be 0 for ever; "
            "pass the frozen reference's"
        )
    if type(reference) is not Tensor or torch.compiler.is_compiling():
        return
    try:
        start = reference.data_ptr()
        distance = start - policy.data_ptr()
    except RuntimeError:  # under torch.func
        return
    if distance == 0:
        shared = start != 0  # of the meta device and of empty tensors it is 0
    elif -reference.nbytes < distance < policy.nbytes:
        shared = reference.is_contiguous() and policy.is_contiguous()
    else:
        return
    if shared:
        raise ValueError(
            f"{name} lies in the same memory as {policy_name} (.detach() and views copy nothing), so it "
            "is not the answer of another model; pass the frozen reference's, and if one buffer holds "
            "the answers of both in turn (CUDA graphs), clone() the first"
        )


def check_weights(name: str, weights: Tensor) -> bool:
    """Refuse weights that are negative, infinite or NaN; return False where they could not be read."""
    if not weights.is_cpu or type(weights) is not Tensor or torch.compiler.is_compiling():
        return False
    try:
        if weights.ndim == 1 and weights.numel() <= _FEW:
            found = weights.tolist()
        else:
            found = [end.item() for end in _ends(weights)]
    except RuntimeError:  # under torch.func
        return False
    # a NaN anywhere makes the sum NaN
    if found and not (min(found) >= 0 and sum(found) < math.inf):
        # None is wrong where only their sum is too large.
        wrong = next((x for x in weights.flatten().tolist() if not 0 <= x < math.inf), math.inf)
        raise ValueError(f"{name} holds {wrong:g}; weights must be finite and at least 0")
    return True


def _ends(values: Tensor) -> tuple[Tensor, ...]:
    """Return the smallest and the largest number, NaN if one is; nothing of nothing."""
    return torch.aminmax(values) if values.numel() else ()
