"""The distance of r from float64, for the ways in which the error differences are computed."""

from __future__ import annotations

import torch

from tglo.bench.cases import TEMPERATURE, make_case, truth
from tglo.bench.contenders import CONTENDERS, Precision, available, checked, eager
from tglo.bench.record import Record, finite

ERRORS = (0.05, 0.1, 0.5)
"""Mean square errors of the reference's prediction."""
SHAPE = (64, 4, 128, 128)

_SCRIPTS: dict[str, Precision] = {
    "eager, model dtype": "model",
    "Diffusion-DPO: fp32 policy, half-precision reference": "policy",
    "eager, all upcast to fp32": "all",
}


def measure(
    device: torch.device, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.bfloat16
) -> list[Record]:
    """Return a row for each mean square error and way: the largest abs(r - exact) over the samples.

    `limit` is None for what is recorded only. For ours it is the project's promise at n = 65,536:
    1e-6 with a reference prediction, 1e-5 with a cached error.
    """
    ways = {name: eager(precision) for name, precision in _SCRIPTS.items()}
    for name in available(device, compiled=False):
        if name.startswith("tglo"):
            ways[name] = CONTENDERS[name]()
    rows = []
    for mse in ERRORS:
        case = make_case(shape, mse=mse, dtype=dtype, device=device)
        exact = truth(case)
        for name, way in ways.items():
            found = checked(way, case, exact)
            rows.append(
                {
                    "name": name,
                    "temperature": TEMPERATURE,
                    "samples": shape[0],
                    "elements": case.policy[0].numel(),
                    "dtype": str(dtype).removeprefix("torch."),
                    "mean_abs_log_ratio": exact.log_ratio.abs().mean().item(),
                    "largest_error": finite(found.errors and found.errors.log_ratio),
                    "limit": way.log_ratio_limit if way.ours else None,
                    "problem": found.problem if found.errors is None else None,
                    "mse": mse,
                }
            )
    return rows


def failures(rows: list[Record]) -> list[str]:
    """List the rows above their limit or without a finite result."""
    return [
        f"{row['name']} at MSE {row['mse']}: r is off by {row['largest_error']}, "
        f"more than {row['limit']:.0e}" + (f" ({row['problem']})" if row["problem"] else "")
        for row in rows
        if row["limit"] is not None
        and not (row["largest_error"] is not None and row["largest_error"] <= row["limit"])
    ]
