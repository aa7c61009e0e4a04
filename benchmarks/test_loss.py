"""Forward and backward of the loss: every contender of tglo.bench at every size.

    pytest benchmarks --benchmark-json FILE

Each result is first compared with float64; ours must be within their limits. `tglo bench` measures
the same with contenders taking turns, which is steadier on a shared machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tglo.bench import gpu
from tglo.bench.cases import CPU_SIZES, GPU_SIZES, Case, Outcome, Size, make_case, truth
from tglo.bench.contenders import CONTENDERS, Checked, available, checked
from tglo.bench.suite import REPLAYS, gpu_figures, new_row

pytest.importorskip("pytest_benchmark")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = GPU_SIZES if DEVICE.type == "cuda" else CPU_SIZES
TARGET_ELEMENTS = 8 * 65536  # the CPU target's size, which gets the full number of rounds


class Prepared(NamedTuple):
    size: Size
    case: Case
    exact: Outcome
    copies: list[Case]  # on a GPU
    bandwidth: float


@pytest.fixture(scope="module")
def bandwidth() -> float:
    return gpu.copy_bandwidth() if DEVICE.type == "cuda" else 0.0


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: size.name)
def prepared(request: pytest.FixtureRequest, bandwidth: float) -> Prepared:
    torch.compiler.reset()  # compiled code is specialised to one size
    case = make_case(request.param.shape, device=DEVICE)
    copies = gpu.rotation(case) if DEVICE.type == "cuda" else []
    return Prepared(request.param, case, truth(case), copies, bandwidth)


def _synchronized(found: Checked) -> Callable[[], Tensor]:
    def step() -> Tensor:
        gradient = found.contender.step(found.case)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return gradient

    return step


@pytest.mark.parametrize("name", available(DEVICE))
def test_loss(name: str, prepared: Prepared, benchmark: Any) -> None:
    found = checked(CONTENDERS[name](), prepared.case, prepared.exact)
    if found.problem:
        assert not found.contender.ours, found.problem
        pytest.skip(found.problem)
    row = new_row(prepared.size, name, found)
    rounds = min(max(200 * TARGET_ELEMENTS // prepared.size.elements, 20), 200)
    if DEVICE.type == "cuda":
        row.update(gpu_figures(found, prepared.copies, REPLAYS, prepared.bandwidth))
        rounds = 20  # of wall-clock time, in which host and GPU overlap
    benchmark.extra_info["row"] = row
    benchmark.group = prepared.size.name
    benchmark.pedantic(_synchronized(found), rounds=rounds, warmup_rounds=5)
    assert not row["problem"], row["problem"]
