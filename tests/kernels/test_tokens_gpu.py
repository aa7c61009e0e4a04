"""The token losses on a CUDA device, each backend against float64; skipped where there is none.

Tests named test_small... are those that compute-sanitizer runs.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.kernels.test_loss_gpu import BACKENDS, KERNELS, runnable  # noqa: F401  (a fixture)
from tests.ops.loss_cases import HALF_AND_SINGLE
from tests.ops.token_cases import (
    TokenCase,
    assert_as_good_as_eager,
    assert_loss_is_right,
    make_token_case,
)
from tglo.ops import token_chunks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_gpu(case: TokenCase) -> TokenCase:
    """The same numbers on the GPU."""

    def move(x: object) -> object:
        if not isinstance(x, Tensor):
            return x
        return x.detach().cuda().requires_grad_(x.requires_grad)

    return TokenCase(*(move(x) for x in case))  # type: ignore[arg-type]


def loss_and_gradients(case: TokenCase, **more: object) -> tuple[Tensor, ...]:
    loss = case.loss(**more)  # type: ignore[arg-type]
    return (loss.detach(), *torch.autograd.grad(loss, case.inputs))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
@pytest.mark.parametrize("shape", [(1, 1, 8, 16), (3, 7, 16, 37), (2, 50, 32, 1000)])
def test_small(backend: str, dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    case = on_gpu(make_token_case(shape, dtype, bias=shape[3] != 37))
    assert_as_good_as_eager(case, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["hidden", "log_prob", "error"])
def test_small_loss(backend: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in (1024, 5):
        monkeypatch.setattr(token_chunks, "CHUNK_ROWS", rows)
        for dtype, reduction in ((torch.bfloat16, "mean"), (torch.float32, "none")):
            case = make_token_case((4, 9, 8, 37), dtype, beta=0.7, reduction=reduction)
            case.mask[1], case.mask[2] = False, True
            case.targets[2] = 5
            assert_loss_is_right(on_gpu(case), backend=backend, form=form)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
def test_small_log_ratio_of_equal_inputs_is_exactly_zero(backend: str, dtype: torch.dtype) -> None:
    case = on_gpu(make_token_case((4, 9, 8, 37), dtype, distance=0.0))
    for form in ("hidden", "log_prob", "error"):
        _, stats = case.loss(form, backend=backend, return_stats=True)
        assert stats.implicit_score.tolist() == [0.0] * 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_small_what_is_not_masked_is_not_looked_at(backend: str) -> None:
    results = []
    for inside in (0.0, float("nan")):
        case = make_token_case((4, 9, 8, 37), torch.float32)
        with torch.no_grad():
            case.hidden[~case.mask] = inside
        results.append(loss_and_gradients(on_gpu(case), backend=backend))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_small_bound_of_the_masked(backend: str) -> None:
    """Fewer rows give the same; too few give NaN, not a wrong number."""
    case = on_gpu(make_token_case((4, 9, 8, 37), torch.float32))
    count = int(case.mask.sum())
    expected = loss_and_gradients(case, backend=backend)
    found = loss_and_gradients(case, backend=backend, max_masked=count)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert case.loss(backend=backend, max_masked=count - 1).isnan()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
@pytest.mark.parametrize("shape", [(2, 1024, 768, 8192), (1, 300, 256, 8191), (1, 40, 64, 262144)])
def test_real_sizes(backend: str, dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    case = on_gpu(make_token_case(shape, dtype, bias=False))
    assert_as_good_as_eager(case, backend=backend)
    first, second = (loss_and_gradients(case, backend=backend) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_host_does_not_wait(backend: str) -> None:
    case = on_gpu(make_token_case((2, 300, 64, 1000), torch.bfloat16))
    loss_and_gradients(case, backend=backend)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss_and_gradients(case, backend=backend)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("backend", KERNELS)
def test_inside_a_cuda_graph(backend: str) -> None:
    case = on_gpu(make_token_case((2, 300, 64, 1000), torch.bfloat16))
    other = make_token_case((2, 300, 64, 1000), torch.bfloat16, seed=1)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        loss_and_gradients(case, backend=backend)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = loss_and_gradients(case, backend=backend)
    with torch.no_grad():  # another number of masked tokens
        case.mask.copy_(other.mask)
        case.targets.copy_(other.targets)
    graph.replay()
    torch.cuda.synchronize()
    expected = loss_and_gradients(case, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_peak_memory_is_below_a_twelfth_of_eagers(backend: str) -> None:
    case = on_gpu(make_token_case((4, 4096, 256, 8192), torch.bfloat16, bias=False))
    peaks = []
    for run in ("eager", "tglo"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        if run == "tglo":
            found = loss_and_gradients(case, backend=backend)[1:]
        else:
            logits = (case.hidden @ case.weight.t()).float().flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, case.targets.flatten())
            found = torch.autograd.grad(loss, case.inputs)
            del logits, loss
        size = sum(g.numel() * g.element_size() for g in found)
        peaks.append(torch.cuda.max_memory_allocated() - before - size)
        del found
    assert peaks[1] < 0.08 * peaks[0], peaks  # half the rows of the full size
