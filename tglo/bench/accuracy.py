"""How far r is from float64, for the ways in which the error differences are computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tglo.bench.cases import TEMPERATURE, Case, make_case, truth
from tglo.bench.contenders import CONTENDERS, Precision, available, eager_loss

ERRORS = (0.05, 0.1, 0.5)
"""Mean square errors of the reference's prediction."""
SHAPE = (64, 4, 128, 128)

_SCRIPTS: dict[str, Precision] = {
    "eager, model dtype": "model",
    "Diffusion-DPO: fp32 policy, half-precision reference": "policy",
    "eager, all upcast to fp32": "all",
}


def _row(
    case: Case, exact: Tensor, mse: float, name: str, r: Tensor, limit: float | None
) -> dict[str, Any]:
    difference = (r.double() - exact).abs().nan_to_num(float("inf"))
    return {
        "name": name,
        "mse": mse,
        "temperature": TEMPERATURE,
        "samples": len(exact),
        "elements": case.policy[0].numel(),
        "dtype": str(case.policy.dtype).removeprefix("torch."),
        "mean_abs_log_ratio": exact.abs().mean().item(),
        "largest_error": difference.max().item(),
        "limit": limit,
    }


def measure(
    device: torch.device, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.bfloat16
) -> list[dict[str, Any]]:
    """A row for each mean square error and way: the largest abs(r - exact) over the samples.

    `limit` is None for what is recorded only. For ours it is the project's promise at n = 65,536:
    1e-6 with a reference prediction, 1e-5 with a cached error.
    """
    rows = []
    for mse in ERRORS:
        case = make_case(shape, mse=mse, dtype=dtype, device=device)
        exact = truth(case).log_ratio
        for name, precision in _SCRIPTS.items():
            r = eager_loss(precision)(case)[1].detach()
            rows.append(_row(case, exact, mse, name, r, None))
        for name in available(device, compiled=False):
            if name.startswith("tglo"):
                ours = CONTENDERS[name]()
                r = ours.check(ours.prepare(case)).log_ratio
                rows.append(_row(case, exact, mse, name, r, ours.log_ratio_limit))
    return rows


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """The rows above their limit, in words."""
    return [
        f"{row['name']} at MSE {row['mse']}: r is off by {row['largest_error']:.2g}, "
        f"more than {row['limit']:.0e}"
        for row in rows
        if row["limit"] is not None and not row["largest_error"] <= row["limit"]
    ]
