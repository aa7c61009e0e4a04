"""Threshold-guided optimization: align visual generative models with scored images (arXiv
2605.04653).

Importing this package imports nothing else: names and modules load when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tglo.log_ratios import log_ratio, policy_error
    from tglo.loss_module import TGOLoss
    from tglo.losses import (
        TGOStats,
        loss_and_grad,
        prediction_error,
        sft_loss,
        tgo_loss,
        tgo_loss_from_log_probs,
    )
    from tglo.token_losses import tgo_token_loss, token_error, token_log_prob

__version__ = "0.1.0"

_LOSSES = (
    "TGOStats",
    "loss_and_grad",
    "prediction_error",
    "sft_loss",
    "tgo_loss",
    "tgo_loss_from_log_probs",
)
_LOG_RATIOS = ("log_ratio", "policy_error")
_TOKEN_LOSSES = ("tgo_token_loss", "token_error", "token_log_prob")
_MODULES = (
    "data",
    "demo",
    "doctor",
    "losses",
    "models",
    "noise",
    "objectives",
    "ops",
    "philox",
    "reference",
    "rewards",
    "threshold",
    "train",
)

__all__ = [
    "TGOLoss",
    "TGOStats",
    "__version__",
    "log_ratio",
    "loss_and_grad",
    "policy_error",
    "prediction_error",
    "sft_loss",
    "tgo_loss",
    "tgo_loss_from_log_probs",
    "tgo_token_loss",
    "token_error",
    "token_log_prob",
]


def __getattr__(name: str) -> Any:
    if name == "TGOLoss":
        return importlib.import_module("tglo.loss_module").TGOLoss
    if name in _LOSSES:
        return getattr(importlib.import_module("tglo.losses"), name)
    if name in _LOG_RATIOS:
        return getattr(importlib.import_module("tglo.log_ratios"), name)
    if name in _TOKEN_LOSSES:
        return getattr(importlib.import_module("tglo.token_losses"), name)
    if name in _MODULES:
        return importlib.import_module(f"tglo.{name}")
    raise AttributeError(f"module 'tglo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
