"""The losses of threshold-guided optimization (arXiv 2605.04653), as users call them."""

from __future__ import annotations

from tglo.losses.log_probs import tgo_loss_from_log_probs
from tglo.losses.results import TGOStats
from tglo.losses.sft import sft_loss
from tglo.losses.tgo import loss_and_grad, prediction_error, tgo_loss

__all__ = [
    "TGOStats",
    "loss_and_grad",
    "prediction_error",
    "sft_loss",
    "tgo_loss",
    "tgo_loss_from_log_probs",
]
