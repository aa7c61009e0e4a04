"""A good call of the loss, and the same with one argument replaced."""

from __future__ import annotations

from typing import Any

import torch

from tests.ops.loss_cases import Case, make_case
from tglo import tgo_loss


def plain() -> Case:
    return make_case((4, 3, 5), torch.float32)


def wrong(case: Case, **change: Any) -> Any:
    """The call with one argument replaced; `None` for reference_pred leaves it out."""
    options: dict[str, Any] = {"reference_pred": case.reference_pred, **case.options}
    tensors = {
        "policy_pred": case.policy_pred,
        "target": case.target,
        "scores": case.scores,
        "threshold": case.threshold,
    }
    for name, value in change.items():
        (tensors if name in tensors else options)[name] = value
    return tgo_loss(*tensors.values(), **options)
