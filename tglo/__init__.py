"""Threshold-guided optimization: align visual generative models with scored images (arXiv
2605.04653).

Importing this package imports nothing else: names and modules load when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tglo.losses.log_probs import tgo_loss_from_log_probs
    from tglo.losses.log_ratio import log_ratio, policy_error
    from tglo.losses.module import TGOLoss
    from tglo.losses.results import TGOStats
    from tglo.losses.sft import sft_loss
    from tglo.losses.tgo import loss_and_grad, prediction_error, tgo_loss
    from tglo.losses.tokens import tgo_token_loss, token_error, token_log_prob

__version__ = "0.1.0"

_HOMES = {
    "TGOLoss": "losses.module",
    "TGOStats": "losses.results",
    "log_ratio": "losses.log_ratio",
    "loss_and_grad": "losses.tgo",
    "policy_error": "losses.log_ratio",
    "prediction_error": "losses.tgo",
    "sft_loss": "losses.sft",
    "tgo_loss": "losses.tgo",
    "tgo_loss_from_log_probs": "losses.log_probs",
    "tgo_token_loss": "losses.tokens",
    "token_error": "losses.tokens",
    "token_log_prob": "losses.tokens",
}
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
    if name in _HOMES:
        return getattr(importlib.import_module(f"tglo.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"tglo.{name}")
    raise AttributeError(f"module 'tglo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
