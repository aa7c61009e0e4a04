"""The loss on a CUDA device, each backend against float64; skipped where there is none."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from tests.loss_cases import (
    HALF_AND_SINGLE,
    Case,
    assert_as_good_as_eager,
    make_case,
    outcome,
)
from tglo import tgo_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BACKENDS = ["reference"] + (["triton"] if importlib.util.find_spec("triton") else [])


def to_device(case: Case) -> Case:
    """The same numbers on the GPU."""
    options = {k: v.cuda() if isinstance(v, Tensor) else v for k, v in case.options.items()}
    return case._replace(
        policy_pred=case.policy_pred.detach().cuda().requires_grad_(),
        target=case.target.cuda(),
        reference_pred=case.reference_pred.cuda(),
        scores=case.scores.cuda(),
        options=options,
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1001), (4, 4, 17, 19)])
def test_small(backend: str, dtype: torch.dtype, cached: bool, shape: tuple[int, ...]) -> None:
    assert_as_good_as_eager(to_device(make_case(shape, dtype)), backend=backend, cached=cached)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("draws", [1, 3])
def test_small_draws_and_uneven_outer_gradient(backend: str, draws: int) -> None:
    case = to_device(make_case((6, 2, 37), torch.bfloat16, draws=draws, weighted=True))
    outer = torch.linspace(-1.5, 2.0, 6 // draws, device="cuda")
    assert_as_good_as_eager(case, backend=backend, outer=outer)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(16, 4, 128, 128), (2, 4096, 64), (1, 16, 21, 60, 104)])
def test_model_sizes_and_bitwise_repeatability(backend: str, shape: tuple[int, ...]) -> None:
    case = to_device(make_case(shape, torch.bfloat16))
    assert_as_good_as_eager(case, backend=backend)
    first, second = (outcome(case, tgo_loss, backend=backend) for _ in range(2))
    for name in ("loss", "log_ratio", "gradient"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_stream(backend: str) -> None:
    case = to_device(make_case((4, 4, 64, 64), torch.bfloat16))
    expected = outcome(case, tgo_loss, backend=backend)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = outcome(case, tgo_loss, backend=backend)
    stream.synchronize()
    assert torch.equal(expected.gradient, found.gradient)
