"""The error of r against float64 at n = 65,536 and T = 0.001: asserted for ours, recorded for others.

The worst of 64 samples whose mean abs(r) is about 0.4, for bf16 inputs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tglo.bench import accuracy


def test_log_ratio_is_accurate(accuracy_rows: list[dict[str, Any]]) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = accuracy.measure(device)
    accuracy_rows.extend(rows)
    assert all(row["mean_abs_log_ratio"] == pytest.approx(0.4, rel=0.1) for row in rows)
    ours = [row for row in rows if row["limit"] is not None]
    assert len(ours) >= len(accuracy.ERRORS)
    assert not accuracy.failures(rows)
