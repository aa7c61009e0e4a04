"""How far r is from float64, for the ways in which the error differences are computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tglo.bench.cases import TEMPERATURE, Case, make_case, truth
from tglo.bench.contenders import CONTENDERS, Contender, Precision, available, eager_loss

ERRORS = (0.05, 0.1, 0.5)
"""Mean square errors of the reference's prediction."""
SHAPE = (64, 4, 128, 128)

_SCRIPTS: dict[str, Precision] = {
    "eager, model dtype": "model",
    "Diffusion-DPO: fp32 policy, half-precision reference": "policy",
    "eager, all upcast to fp32": "all",
}


Way = Callable[[Case], Tensor]
"""From a case to r, (B,)."""


def _script(precision: Precision) -> Way:
    loss = eager_loss(precision)
    return lambda case: loss(case)[1].detach()


def _contender(ours: Contender) -> Way:
    return lambda case: ours.check(ours.prepare(case)).log_ratio


def _row(case: Case, exact: Tensor, name: str, way: Way, limit: float | None) -> dict[str, Any]:
    problem = None
    try:
        difference = (way(case).double() - exact).abs()
        error = difference.max().item() if difference.isfinite().all() else None
    except Exception as raised:  # one backend's failure must not hide the others' results
        error, problem = None, f"{type(raised).__name__}: {raised}"
    return {
        "name": name,
        "temperature": TEMPERATURE,
        "samples": len(exact),
        "elements": case.policy[0].numel(),
        "dtype": str(case.policy.dtype).removeprefix("torch."),
        "mean_abs_log_ratio": exact.abs().mean().item(),
        "largest_error": error,
        "limit": limit,
        "problem": problem,
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
        ways: dict[str, tuple[Way, float | None]] = {
            name: (_script(precision), None) for name, precision in _SCRIPTS.items()
        }
        for name in available(device, compiled=False):
            if name.startswith("tglo"):
                ours = CONTENDERS[name]()
                ways[name] = _contender(ours), ours.log_ratio_limit
        mine = [_row(case, exact, name, way, limit) for name, (way, limit) in ways.items()]
        rows += [{**row, "mse": mse} for row in mine]
    return rows


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """The rows above their limit, or without a finite result, in words."""
    return [
        f"{row['name']} at MSE {row['mse']}: r is off by {row['largest_error']}, "
        f"more than {row['limit']:.0e}" + (f" ({row['problem']})" if row["problem"] else "")
        for row in rows
        if row["limit"] is not None
        and not (row["largest_error"] is not None and row["largest_error"] <= row["limit"])
    ]
