"""Validation of the arguments of the token losses: cheap, without reading a tensor's values."""

from __future__ import annotations

import torch
from torch import Tensor

from tglo.losses.checks import (
    check_constant,
    check_device,
    check_floating,
    check_tensor,
    check_vector,
)
from tglo.losses.values import check_other_memory


def _floating_beside(hidden: Tensor, name: str, value: object) -> Tensor:
    value = check_floating(name, value)
    check_device(name, value, hidden.device, "hidden")
    return value


def check_hidden(name: str, value: object) -> Tensor:
    value = check_floating(name, value)
    if value.ndim != 3 or value.shape[2] == 0:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; it must be (B, N, D), one vector for each token"
        )
    return value


def check_vocabulary(prefix: str, weight: object, bias: object, hidden: Tensor) -> None:
    """Check weight (V, D) and bias (V,) or None."""
    name, width = f"{prefix}weight", hidden.shape[2]
    weight = _floating_beside(hidden, name, weight)
    if weight.ndim != 2 or weight.shape[1] != width or weight.shape[0] == 0:
        raise ValueError(
            f"{name} has shape {tuple(weight.shape)}; it must be (V, {width}): one row for each token "
            "of the vocabulary, as torch.nn.Linear and 1x1 convolutions (flattened) hold it"
        )
    if bias is None:
        return
    name = f"{prefix}bias"
    bias = _floating_beside(hidden, name, bias)
    if bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{name} has shape {tuple(bias.shape)}; it must be ({weight.shape[0]},) or None"
        )


def check_tokens(targets: object, mask: object, hidden: Tensor) -> None:
    """Check targets (B, N) int64 and mask (B, N) bool."""
    shape = tuple(hidden.shape[:2])
    for name, value, dtype in (("targets", targets, torch.int64), ("mask", mask, torch.bool)):
        value = check_tensor(name, value)
        check_device(name, value, hidden.device, "hidden")
        if value.dtype != dtype:
            raise TypeError(f"{name} has dtype {value.dtype}; pass {dtype}: {name}.to({dtype})")
        if tuple(value.shape) != shape:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} but hidden is {tuple(hidden.shape)}; "
                f"{name} must be {shape}"
            )


def check_max_masked(value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"max_masked is {value!r}; pass a number of positions or None")
    if value < 0:
        raise ValueError(f"max_masked is {value}; it must be at least 0")


def check_token_reference(
    hidden: Tensor, mask: Tensor, weight: object, bias: object, **forms: object
) -> None:
    """Check for exactly one form of the reference (reference_hidden, reference_log_prob or reference_error),
    constant and of the right shape. weight and bias are the reference's.
    """
    given = {name: form for name, form in forms.items() if form is not None}
    if len(given) != 1:
        raise ValueError(
            f"{' and '.join(given) or 'none'} of reference_hidden, reference_log_prob and "
            "reference_error given; pass exactly one: the reference's hidden states, its "
            "log-probabilities, or its cached error (one number per sample)"
        )
    ((name, form),) = given.items()
    if name != "reference_hidden" and (weight is not None or bias is not None):
        raise ValueError(
            f"reference_weight or reference_bias given with {name}; they belong to reference_hidden"
        )
    if name == "reference_hidden":
        if weight is None:
            check_other_memory(name, check_tensor(name, form), hidden, "hidden")
        value = check_hidden(name, form)
        check_device(name, value, hidden.device, "hidden")
        if value.shape[:2] != hidden.shape[:2]:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} but hidden is {tuple(hidden.shape)}; batch and "
                "tokens must agree"
            )
    elif name == "reference_log_prob":
        value = _floating_beside(hidden, name, form)
        if value.shape != mask.shape:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; it must be {tuple(mask.shape)}: one number for "
                "each token"
            )
    else:
        check_vector(name, form, len(mask), "sample", hidden.device)
    given |= {"reference_weight": weight, "reference_bias": bias}
    for name, one in given.items():
        if isinstance(one, Tensor):
            check_constant(name, one)
