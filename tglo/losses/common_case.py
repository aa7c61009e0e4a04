"""The checks of the most common calls in one function: there each call and each attribute of a tensor is a
measurable part of the time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tglo import ops
from tglo.losses import values
from tglo.losses.checks import REDUCTIONS

_OPTIONS = frozenset(
    ("reference_pred", "reference_error", "beta", "temperature", "confidence", "reduction", "draws")
)
_PREDICTIONS = frozenset((torch.bfloat16, torch.float16, torch.float32))
_VECTORS = frozenset((torch.float32, torch.float64))
_STRIDED = torch.strided


def common_arguments(
    policy_pred: Any, target: Any, scores: Any, threshold: Any, options: Mapping[str, Any]
) -> tuple[ops.Predictions, ops.Scoring] | None:
    """Return what `loss_arguments` returns, or None for a call that it has to look at: one with other
    options than these, with several draws, with numbers that are no floats, with something to convert or
    something wrong.
    """
    if torch.compiler.is_compiling() or not options.keys() <= _OPTIONS:
        return None
    known = options.get
    other, error = known("reference_pred"), known("reference_error")
    beta, confidence = known("beta", 1.0), known("confidence", 5.0)
    temperature, draws = known("temperature", 1e-3), known("draws", 1)
    reference = error if other is None else other
    if (
        not (type(policy_pred) is type(target) is type(reference) is type(scores) is Tensor)
        or not (type(threshold) is type(beta) is type(temperature) is type(confidence) is float)
        or (other is not None and error is not None)
        or type(draws) is not int
        or draws != 1
        or (reduction := known("reduction", "mean")) not in REDUCTIONS
    ):
        return None
    try:
        shape, dtype, device = policy_pred.shape, policy_pred.dtype, policy_pred.device
        rows = shape[:1]
        ordinary = (
            0 not in shape
            and dtype in _PREDICTIONS
            and target.dtype == dtype
            and (reference.dtype in _VECTORS if other is None else other.dtype == dtype)
            and scores.dtype in _VECTORS
            and target.shape == shape
            and reference.shape == (rows if other is None else shape)
            and scores.shape == rows != ()
            and target.device == reference.device == scores.device == device
            and not (target.requires_grad or reference.requires_grad or scores.requires_grad)
            and (
                policy_pred.layout is target.layout is reference.layout is scores.layout is _STRIDED
            )
            and -math.inf < threshold < math.inf
            and 0.0 < beta < math.inf
            and 0.0 < temperature < math.inf
            and 0.0 <= confidence < math.inf
        )
    except RuntimeError:  # a nested tensor has no shape
        return None
    if not ordinary:
        return None
    if other is not None:
        values.check_other_memory("reference_pred", other, policy_pred, "policy_pred")
    return (
        ops.Predictions(policy_pred, target, other, error, None, 1, temperature, 1.0),
        ops.Scoring(scores, threshold, beta, confidence, reduction),
    )
