"""The fused operators, and the one place that chooses who computes them."""

from __future__ import annotations

from tglo.ops import noise, tokens  # noqa: F401  (their operators exist as soon as any does)
from tglo.ops.arguments import Predictions, Scoring
from tglo.ops.choice import (
    BACKENDS,
    OPERATORS,
    backend_for,
    backends,
    check_backend,
    insisted_backend,
)
from tglo.ops.extension import EXTENSION
from tglo.ops.library import operator
from tglo.ops.loss import log_ratio, prediction_error, tgo_loss, tgo_loss_and_grad
from tglo.ops.results import KernelResult, Result

__all__ = [
    "BACKENDS",
    "EXTENSION",
    "OPERATORS",
    "KernelResult",
    "Predictions",
    "Result",
    "Scoring",
    "backend_for",
    "backends",
    "check_backend",
    "insisted_backend",
    "log_ratio",
    "operator",
    "prediction_error",
    "tgo_loss",
    "tgo_loss_and_grad",
]
