"""The loss inside others' programs on a CUDA device: torch.compile's CUDA graphs, host threads, calls
that fail; skipped where there is no device.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.test_loss_gpu import (  # noqa: F401  (runnable is a fixture)
    KERNELS,
    SDXL,
    WAN,
    by_loss_and_grad,
    runnable,
    to_device,
)
from tests.ops.loss_cases import Case, make_case, outcome
from tglo import loss_and_grad, tgo_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def tensors_of(case: Case) -> tuple[Tensor, ...]:
    """Policy's prediction without its graph, target, reference's prediction, scores."""
    return case.policy_pred.detach(), case.target, case.reference_pred, case.scores


def assert_same_bits(found: Any, expected: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("shape", [(4, *SDXL), (2, *WAN)])
def test_reduce_overhead(backend: str, shape: tuple[int, ...]) -> None:
    """CUDA graphs of torch.compile have memory pools of their own, in which nothing may live on."""
    torch.compiler.reset()

    def step(x: Tensor, y: Tensor, q: Tensor, scores: Tensor) -> Tensor:
        prediction = 1.5 * x  # stands for the model
        return tgo_loss(prediction, y, scores, 0.5, reference_pred=q, backend=backend)

    def loss_and_gradient(function: Any, case: Case) -> tuple[Tensor, Tensor]:
        x, *rest = tensors_of(case)
        x = x.clone().requires_grad_()
        loss = function(x, *rest)
        loss.backward()
        assert x.grad is not None
        return loss.detach().clone(), x.grad.clone()

    compiled = torch.compile(step, mode="reduce-overhead", fullgraph=True)
    for seed in (0, 1, 2, 0, 1, 2):  # warm-up, recording, replays
        case = to_device(make_case(shape, torch.bfloat16, seed=seed))
        eager = loss_and_gradient(step, case)  # between the replays, on the same stream
        torch.compiler.cudagraph_mark_step_begin()
        loss, gradient = loss_and_gradient(compiled, case)
        torch.testing.assert_close(loss, eager[0], rtol=1e-6, atol=0)
        # The product may be rounded elsewhere than in eager mode: one unit in the last place.
        torch.testing.assert_close(gradient, eager[1], rtol=2**-7, atol=1e-9)


@pytest.mark.parametrize("backend", KERNELS)
def test_reduce_overhead_of_loss_and_grad(backend: str) -> None:
    torch.compiler.reset()

    def step(p: Tensor, y: Tensor, q: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        return loss_and_grad(p, y, scores, 0.5, reference_pred=q, backend=backend)

    compiled = torch.compile(step, mode="reduce-overhead", fullgraph=True)
    for seed in (0, 1, 0, 1, 0):
        inputs = tensors_of(to_device(make_case((4, *SDXL), torch.bfloat16, seed=seed)))
        expected = [tensor.clone() for tensor in step(*inputs)]
        torch.compiler.cudagraph_mark_step_begin()
        assert_same_bits([tensor.clone() for tensor in compiled(*inputs)], expected)


@pytest.mark.parametrize("backend", KERNELS)
def test_host_threads_on_streams_of_their_own(backend: str) -> None:
    cases = [to_device(make_case((4, *SDXL), torch.bfloat16, seed=seed)) for seed in range(3)]
    expected = [
        (outcome(c, tgo_loss, backend=backend), by_loss_and_grad(c, backend=backend)) for c in cases
    ]
    torch.cuda.synchronize()
    problems: list[str] = []

    def work(number: int) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(20):
                    found = (
                        outcome(cases[number], tgo_loss, backend=backend),
                        by_loss_and_grad(cases[number], backend=backend),
                    )
                    torch.cuda.current_stream().synchronize()
                    for one, other in zip(found, expected[number], strict=True):
                        assert_same_bits(one, other)
        except BaseException as error:
            problems.append(f"thread {number}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


@pytest.mark.parametrize("backend", KERNELS)
def test_small_a_call_beyond_the_limits_leaves_no_error_behind(backend: str) -> None:
    """65 draws a sample are more than one launch takes: right, or refused, and then forgotten."""
    ordinary = to_device(make_case((4, 3, 33), torch.bfloat16))
    expected = (
        outcome(ordinary, tgo_loss, backend=backend),
        by_loss_and_grad(ordinary, backend=backend),
    )
    many = to_device(make_case((130, 40), torch.float32, draws=65))
    truth = outcome(many, tgo_loss, backend="reference")
    try:
        found = by_loss_and_grad(many, backend=backend)
    except RuntimeError as error:
        assert "tglo" in str(error)
    else:
        torch.testing.assert_close(found.loss, truth.loss, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.gradient, truth.gradient, rtol=1e-3, atol=1e-6)
    torch.cuda.synchronize()
    assert (torch.ones(3, device="cuda") + 1).tolist() == [2.0, 2.0, 2.0]
    again = (
        outcome(ordinary, tgo_loss, backend=backend),
        by_loss_and_grad(ordinary, backend=backend),
    )
    for one, other in zip(again, expected, strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("shape", [(0, 4, 5, 6), (3, 0)])
def test_small_nothing_to_do(backend: str, shape: tuple[int, ...]) -> None:
    """No rows, and rows of no elements: what the formula gives, or a refusal that says why."""
    case = to_device(make_case(shape, torch.bfloat16))
    for call in (
        lambda **o: outcome(case, tgo_loss, **o),
        lambda **o: by_loss_and_grad(case, **o),
    ):
        try:
            expected = call(backend="reference")
        except (ValueError, RuntimeError):
            with pytest.raises((ValueError, RuntimeError)):
                call(backend=backend)
            continue
        found = call(backend=backend)
        torch.testing.assert_close(found.loss, expected.loss, equal_nan=True)
        assert found.gradient.shape == case.policy_pred.shape
    torch.cuda.synchronize()
