"""Every formula of threshold-guided optimization in plain PyTorch (arXiv 2605.04653).

This package is the only statement of the mathematics. The kernels are accepted by tests against it,
and it is the backend that works on every device. Elementwise work is done in the inputs' dtype, but
at least in float32; sums over a prediction and everything of batch size are float64. So float64
inputs give a float64 result throughout.

Notation: p, q, y are the policy's prediction, the reference's prediction and the training target; n
is the number of elements of one prediction; s the score, tau the threshold.
"""

from __future__ import annotations

from tglo.reference.errors import error_difference, prediction_error, row_mean, row_weight
from tglo.reference.gradient import (
    error_coefficient,
    log_ratio_coefficient,
    prediction_coefficient,
    prediction_gradient,
)
from tglo.reference.loss import (
    TGOResult,
    confidence_weight,
    label,
    loss_from_log_ratio,
    loss_slope,
    loss_weight,
    reduce_loss,
    scored,
    scored_share,
    scored_weight,
    tgo_loss,
)
from tglo.reference.noising import noised
from tglo.reference.ratio import (
    LogRatio,
    average_draws,
    log_ratio,
    prediction_log_ratio,
    token_log_ratio,
)
from tglo.reference.tokens import picked_log_prob, token_error, token_log_prob, token_logits

__all__ = [
    "LogRatio",
    "TGOResult",
    "average_draws",
    "confidence_weight",
    "error_coefficient",
    "error_difference",
    "label",
    "log_ratio",
    "log_ratio_coefficient",
    "loss_from_log_ratio",
    "loss_slope",
    "loss_weight",
    "noised",
    "picked_log_prob",
    "prediction_coefficient",
    "prediction_error",
    "prediction_gradient",
    "prediction_log_ratio",
    "reduce_loss",
    "row_mean",
    "row_weight",
    "scored",
    "scored_share",
    "scored_weight",
    "tgo_loss",
    "token_error",
    "token_log_prob",
    "token_log_ratio",
    "token_logits",
]
