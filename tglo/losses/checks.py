"""Validation of the arguments of the losses: cheap, without reading a tensor's values (values.py does)."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from tglo.losses import values

PREDICTIONS = frozenset((torch.bfloat16, torch.float16, torch.float32, torch.float64))
NUMBERS = PREDICTIONS | {
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
}
SCORES = NUMBERS | {torch.bool}
_STRIDED = torch.strided
REDUCTIONS = ("mean", "sum", "none")
MASK_MEANS = ("mask", "elements")


def check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"reduction is {reduction!r}; use one of {', '.join(map(repr, REDUCTIONS))}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real)


def check_number(
    name: str, value: float, *, above: float | None = None, at_least: float | None = None
) -> None:
    if type(value) is not float:
        value = _as_float(name, value)
    if (
        not -math.inf < value < math.inf  # math.isfinite does not take torch.compile's numbers
        or (above is not None and not value > above)
        or (at_least is not None and not value >= at_least)
    ):
        limit = "" if above is None else f" above {above:g}"
        limit += "" if at_least is None else f" of at least {at_least:g}"
        raise ValueError(f"{name} is {value}; it must be a finite number{limit}")


def check_confidence(confidence: float) -> bool:
    """Check c, and return whether it is infinite."""
    if _is_number(confidence) and confidence == math.inf:
        return True
    check_number("confidence", confidence, at_least=0)
    return False


def _as_float(name: str, value: object) -> float:
    if not _is_number(value):
        raise TypeError(f"{name} is a {type(value).__name__}; pass a Python number")
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise ValueError(
            f"{name} is beyond float64, whose largest number is 1.8e308; pass a smaller one"
        ) from None


def check_draws(draws: int, rows: int, name: str = "policy_pred") -> None:
    if isinstance(draws, bool) or not isinstance(draws, int):
        raise TypeError(f"draws is {draws!r}; pass a positive integer")
    if draws < 1:
        raise ValueError(f"draws is {draws}; it must be at least 1")
    if rows % draws:
        raise ValueError(
            f"{rows} rows do not divide into samples of draws={draws}; {name} must have "
            "batch * draws rows, the draws of one sample next to each other"
        )


def check_tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; pass a torch.Tensor")
    if value.layout is not _STRIDED or value.is_nested:
        kind = "nested" if value.is_nested else str(value.layout)
        raise TypeError(
            f"{name} is a {kind} tensor; pass an ordinary one: {name}.to_dense(), or of a nested one "
            f"{name}.to_padded_tensor(0.0) with a mask"
        )
    return value


def check_real(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in NUMBERS:
        raise TypeError(
            f"{name} has dtype {tensor.dtype}; pass real numbers in float32, float64, a half precision "
            "or integers"
        )


def check_device(
    name: str, tensor: Tensor, device: torch.device, other: str = "policy_pred"
) -> None:
    """Check that the tensor is on the device of the argument named `other`."""
    if tensor.device != device:
        raise ValueError(
            f"{name} is on {tensor.device} but {other} is on {device}; move it with "
            f"{name}.to({other}.device)"
        )


def check_floating(name: str, value: object) -> Tensor:
    value = check_tensor(name, value)
    if value.dtype not in PREDICTIONS:
        raise TypeError(
            f"{name} has dtype {value.dtype}; pass bfloat16, float16, float32 or float64"
        )
    return value


def check_prediction(name: str, value: object) -> Tensor:
    """Check for a floating-point tensor of at least one dimension, with elements in every row."""
    value = check_floating(name, value)
    if value.ndim == 0:
        raise ValueError(f"{name} is 0-dimensional; its first dimension must be batch * draws")
    if value.numel() == 0 and 0 in value.shape[1:]:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}: its rows are empty; every dimension after the "
            "first must be at least 1"
        )
    return value


def check_like_policy(name: str, value: object, policy_pred: Tensor) -> None:
    """Check for a constant prediction with the shape and the device of the policy's, which has itself
    been checked.
    """
    value = check_floating(name, value)
    if value.shape != policy_pred.shape:
        check_prediction(name, value)
        raise ValueError(
            f"{name} has shape {tuple(value.shape)} but policy_pred has "
            f"{tuple(policy_pred.shape)}; the shapes must be equal (nothing is broadcast)"
        )
    if value.device != policy_pred.device:
        check_device(name, value, policy_pred.device)
    if value.requires_grad:
        check_constant(name, value)


def check_constant(name: str, tensor: Tensor) -> None:
    if tensor.requires_grad:
        raise ValueError(
            f"{name} requires a gradient, which the loss does not give it; compute it under "
            f"torch.no_grad() or pass {name}.detach()"
        )


def check_vector(
    name: str,
    value: object,
    length: int,
    unit: str,
    device: torch.device,
    other: str = "policy_pred",
    dtypes: frozenset[torch.dtype] = NUMBERS,
) -> None:
    """Check for a real-valued tensor of shape (length,) on `device`, that of the argument `other`."""
    value = check_tensor(name, value)
    if value.dtype not in dtypes:
        check_real(name, value)
    if value.ndim != 1 or value.shape[0] != length:
        remedy = f"; {name}.flatten() is" if value.numel() == length else ""
        if value.ndim > 1 and not remedy and name.endswith("_weight"):
            remedy = "; weights of single elements are a mask, with mask_mean='elements'"
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; it must be ({length},): one number per {unit}"
            f"{remedy}"
        )
    if value.device != device:
        check_device(name, value, device, other)


def _check_for_samples(
    name: str, value: Tensor, batch: int, device: torch.device, other: str
) -> None:
    """Check for real numbers: one for all samples, 0-dimensional, or one for each."""
    if value.ndim == 0:
        check_real(name, check_tensor(name, value))
        check_device(name, value, device, other)
    else:
        check_vector(name, value, batch, "sample", device, other)


def check_scores(
    scores: object,
    threshold: object,
    batch: int,
    device: torch.device,
    other: str = "policy_pred",
) -> None:
    check_vector("scores", scores, batch, "sample", device, other, SCORES)
    if isinstance(threshold, Tensor):
        _check_for_samples("threshold", threshold, batch, device, other)
    elif type(threshold) is float or _is_number(threshold):
        check_number("threshold", threshold)  # type: ignore[arg-type]
    else:
        raise TypeError(
            f"threshold is a {type(threshold).__name__}; pass a number, a 0-d tensor or a tensor "
            "of one threshold per sample (of a tglo.threshold.Threshold: its .value or "
            ".for_prompts(...))"
        )


def check_reference(policy_pred: Tensor, reference_pred: object, reference_error: object) -> None:
    if (reference_pred is None) == (reference_error is None):
        given = "neither" if reference_pred is None else "both"
        raise ValueError(
            f"{given} of reference_pred and reference_error given; pass exactly one: the "
            "reference's prediction, or its cached error (one number per draw)"
        )
    if reference_pred is not None:
        if reference_pred is not policy_pred:  # which has a gradient, and another message
            check_like_policy("reference_pred", reference_pred, policy_pred)
        values.check_other_memory("reference_pred", reference_pred, policy_pred, "policy_pred")  # type: ignore[arg-type]
    else:
        check_vector(
            "reference_error", reference_error, policy_pred.shape[0], "draw", policy_pred.device
        )
        check_constant("reference_error", reference_error)  # type: ignore[arg-type]


def check_timestep_weight(value: object, rows: int, device: torch.device) -> None:
    if isinstance(value, Tensor):
        check_vector("timestep_weight", value, rows, "draw", device)
        values.check_weights("timestep_weight", value)
    elif value is not None:
        check_number("timestep_weight", value, at_least=0)  # type: ignore[arg-type]


def check_sample_weight(
    value: object, samples: int, device: torch.device, other: str = "policy_pred"
) -> None:
    if isinstance(value, Tensor):
        _check_for_samples("sample_weight", value, samples, device, other)
        values.check_weights("sample_weight", value)
    else:
        check_number("sample_weight", value, at_least=0)  # type: ignore[arg-type]


def check_mask_mean(value: object) -> None:
    if value not in MASK_MEANS:
        raise ValueError(
            f"mask_mean is {value!r}; use 'mask' to divide by the mask's sum, or 'elements' to divide "
            "by the number of elements"
        )


def check_loss_scale(value: object, device: torch.device) -> None:
    if isinstance(value, Tensor):
        if value.ndim != 0 or value.dtype not in PREDICTIONS:
            raise ValueError(
                f"loss_scale is a {value.dtype} tensor of shape {tuple(value.shape)}; pass a "
                "number or a 0-dimensional floating-point tensor"
            )
        check_device("loss_scale", value, device)
    else:
        check_number("loss_scale", value)  # type: ignore[arg-type]
