"""The mask of a prediction's elements: checked, and as the weights that every backend takes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from tglo.losses import checks, values

_UNSIGNED = (torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64)


def mask_weights(value: object, prediction: Tensor) -> Tensor | None:
    """Return weights with the prediction's number of dimensions, which broadcast to it: bool or float32
    (float64 beside float64 predictions), without a gradient.

    ValueError for weights that are negative, infinite or NaN. On a GPU, where that would have to wait,
    a negative weight becomes NaN, and so do the errors of its row.
    """
    if value is None:
        return None
    mask = checks.check_tensor("mask", value)
    _check_shape(mask, prediction)
    checks.check_device("mask", mask, prediction.device)
    dtype = mask.dtype
    if dtype == torch.bool:
        return mask
    checks.check_real("mask", mask)
    known = dtype in _UNSIGNED or values.check_weights("mask", mask)
    wide = torch.float64 if prediction.dtype == torch.float64 else torch.float32
    weights = mask.detach().to(wide)
    return weights if known else functional.threshold(weights, -torch.finfo(wide).tiny, math.nan)


def _check_shape(mask: Tensor, prediction: Tensor) -> None:
    shape, whole = mask.shape, prediction.shape
    if shape == whole:
        return
    if len(shape) != len(whole):
        # (B, H, W) beside (B, C, H, W) would be taken for a mask of channels wherever B equals C.
        raise ValueError(
            f"mask has shape {tuple(shape)}, {len(shape)} dimensions, but the prediction has "
            f"{tuple(whole)}, {len(whole)}; give it all of them, with a 1 where it does not vary: "
            "a mask per sample and pixel is (B, 1, H, W), one for all samples (1, 1, H, W)"
        )
    for size, full in zip(shape, whole, strict=True):
        if size != full and size != 1:
            raise ValueError(
                f"mask has shape {tuple(shape)}, which does not broadcast to the prediction's "
                f"{tuple(whole)}; for a mask per sample and pixel pass (B, 1, H, W)"
            )
