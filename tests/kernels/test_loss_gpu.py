"""The loss on a CUDA device, each backend against float64; skipped where there is none.

Tests named test_small... are those that compute-sanitizer runs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.loss_cases import (
    HALF_AND_SINGLE,
    Case,
    Outcome,
    assert_as_good_as_eager,
    make_case,
    make_masks,
    outcome,
    widened,
)
from tglo import loss_and_grad, prediction_error, tgo_loss
from tglo.ops import choice

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BACKENDS = ["reference", "cuda", "triton"]
KERNELS = ["cuda", "triton"]
SDXL, FLUX, WAN = (4, 128, 128), (4096, 64), (16, 21, 60, 104)


@pytest.fixture(autouse=True)
def runnable(request: pytest.FixtureRequest) -> None:
    backend = request.getfixturevalue("backend") if "backend" in request.fixturenames else ""
    missing = choice.backends().get(backend, "")
    if missing:
        pytest.skip(missing)


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


def by_loss_and_grad(case: Case, **more: Any) -> Outcome:
    loss, gradient, stats = case.call(loss_and_grad, return_stats=True, **more)
    return Outcome(loss, stats.implicit_score, gradient, stats.policy_error, stats.reference_error)


def assert_same(case: Case, backend: str, cached: bool = False, **more: Any) -> None:
    """loss_and_grad against the loss and its backward: other sums, so rounding may differ."""
    one = by_loss_and_grad(case, backend=backend, cached=cached, **more)
    outer = torch.ones_like(case.scores) if more.get("reduction") == "none" else None
    two = outcome(case, tgo_loss, backend=backend, cached=cached, outer=outer, **more)
    unit = 1e-7 * float(two.policy_error.max()) * case.options.get("beta", 1.0) / 1e-3
    torch.testing.assert_close(one.implicit_score, two.implicit_score, rtol=1e-5, atol=unit)
    torch.testing.assert_close(one.policy_error, two.policy_error, rtol=1e-6, atol=0)
    torch.testing.assert_close(one.reference_error, two.reference_error, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(one.loss, two.loss, rtol=1e-5, atol=6 * unit)
    eps = torch.finfo(one.gradient.dtype).eps + unit
    limit = 2 * eps * two.gradient.abs().max().item()
    assert (one.gradient.float() - two.gradient.float()).abs().max() <= limit


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1001), (4, 4, 16, 24)])
def test_small(backend: str, dtype: torch.dtype, cached: bool, shape: tuple[int, ...]) -> None:
    case = to_device(make_case(shape, dtype))
    assert_as_good_as_eager(case, backend=backend, cached=cached)
    assert_same(case, backend, cached)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("draws", [1, 3, 12])
def test_small_draws_and_uneven_outer_gradient(backend: str, draws: int) -> None:
    """More than 8 draws leave the clusters for the cooperative kernel."""
    case = to_device(make_case((24, 2, 36), torch.bfloat16, draws=draws, weighted=True))
    outer = torch.linspace(-1.5, 2.0, 24 // draws, device="cuda")
    assert_as_good_as_eager(case, backend=backend, outer=outer)
    for reduction in ("none", "sum", "mean"):
        assert_same(case, backend, reduction=reduction)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", list(make_masks((6, 4, 5, 24))))
def test_small_masks(backend: str, cached: bool, name: str) -> None:
    shape = (6, 4, 5, 24)
    mask = make_masks(shape)[name]
    for dtype, draws in ((torch.bfloat16, 1), (torch.float32, 2)):
        case = to_device(make_case(shape, dtype, draws=draws, mask=mask))
        assert_as_good_as_eager(case, backend=backend, cached=cached)
        assert_same(case, backend, cached)


@pytest.mark.parametrize("backend", KERNELS)
def test_a_hidden_row_and_hidden_nan(backend: str) -> None:
    shape = (3, 4, 16, 16)
    case = make_case(shape, torch.float32)
    mask = torch.ones(3, 1, 16, 16)
    mask[1], mask[2, :, :4] = 0, 0
    clean = to_device(case._replace(options={**case.options, "mask": mask}))
    with torch.no_grad():
        case.policy_pred[2, :, :4] = float("nan")
    dirty = to_device(case._replace(options={**case.options, "mask": mask}))
    for call in (
        lambda c: outcome(c, tgo_loss, backend=backend),
        lambda c: by_loss_and_grad(c, backend=backend),
    ):
        one, other = call(clean), call(dirty)
        assert one.implicit_score[1] == 0 and not one.gradient[1].any()
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("shape", [(16, *SDXL), (2, *FLUX), (3, *WAN)])
def test_model_sizes_and_bitwise_repeatability(
    backend: str, cached: bool, shape: tuple[int, ...]
) -> None:
    case = to_device(make_case(shape, torch.bfloat16))
    assert_as_good_as_eager(case, backend=backend, cached=cached)
    assert_same(case, backend, cached)
    for call in (
        lambda: outcome(case, tgo_loss, backend=backend),
        lambda: by_loss_and_grad(case, backend=backend),
    ):
        first = call()
        for _ in range(20):
            assert all(torch.equal(a, b) for a, b in zip(first, call(), strict=True))


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("batch", [1, 2, 5, 7, 40])
def test_many_samples_through_one_grid(backend: str, batch: int) -> None:
    """Each form of the one-launch kernel: clusters of 1 to 8 blocks, and groups of a grid."""
    for shape, dtype, draws in (
        ((batch, *SDXL), torch.bfloat16, 1),
        ((batch, 1000), torch.float32, 1),
        ((2 * batch, 300_000), torch.bfloat16, 2),
        ((12 * batch, 5_000), torch.float16, 12),
    ):
        assert_same(to_device(make_case(shape, dtype, draws=draws)), backend)


@pytest.mark.parametrize("backend", KERNELS)
def test_accuracy_that_training_needs(backend: str) -> None:
    case = make_case((16, 65536), torch.bfloat16, distance=0.05, seed=1)
    truth = outcome(widened(case), tgo_loss).implicit_score.cuda()
    case = to_device(case)
    for call in (lambda **o: outcome(case, tgo_loss, **o), lambda **o: by_loss_and_grad(case, **o)):
        assert (call(backend=backend).implicit_score - truth).abs().max() < 1e-6
        assert (call(backend=backend, cached=True).implicit_score - truth).abs().max() < 1e-5


@pytest.mark.parametrize("backend", KERNELS)
def test_step_zero_ratio_of_an_error_cached_in_another_batch(backend: str) -> None:
    case = to_device(make_case((4, *SDXL), torch.bfloat16))
    errors = [
        prediction_error(case.policy_pred[i : i + 1], case.target[i : i + 1], backend=backend)
        for i in range(4)
    ]
    arguments = case.policy_pred, case.target, case.scores, 0.5
    _, stats = tgo_loss(
        *arguments, reference_error=torch.cat(errors), return_stats=True, backend=backend
    )
    assert stats.implicit_score.tolist() == [0.0] * 4


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("form", ["unaligned", "channels_last", "strided"])
def test_layouts(backend: str, form: str) -> None:
    case = make_case((4, 4, 16, 32), torch.bfloat16)
    expected = outcome(case, tgo_loss, backend="reference")

    def laid_out(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().cuda()
        if form == "channels_last":
            return tensor.contiguous(memory_format=torch.channels_last)
        size = tensor.numel()
        if form == "unaligned":
            memory = torch.empty(size + 1, dtype=tensor.dtype, device="cuda")[1:]
            return memory.view(tensor.shape).copy_(tensor)
        wide = torch.full((*tensor.shape[:-1], 64), float("nan"), device="cuda").to(tensor.dtype)
        return wide[..., ::2].copy_(tensor)

    device = to_device(case)._replace(
        policy_pred=laid_out(case.policy_pred).requires_grad_(),
        target=laid_out(case.target),
        reference_pred=laid_out(case.reference_pred),
    )
    found = outcome(device, tgo_loss, backend=backend)
    torch.testing.assert_close(
        found.implicit_score.cpu(), expected.implicit_score, rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(found.gradient.cpu(), expected.gradient, rtol=0.02, atol=1e-6)
    assert_same(device, backend)


@pytest.mark.parametrize("backend", KERNELS)
def test_poisoned_memory_is_overwritten(backend: str) -> None:
    case = to_device(make_case((4, *SDXL), torch.bfloat16))
    calls = (
        lambda: outcome(case, tgo_loss, backend=backend),
        lambda: by_loss_and_grad(case, backend=backend),
    )
    for call in calls:
        expected = call()
        poison = [torch.full((n,), float("nan"), device="cuda") for n in (1, 16, 64, 4096, 2**20)]
        poison += [torch.full((2**22,), float("nan"), device="cuda")]
        del poison  # back to the allocator, which hands it to the next call
        assert all(torch.equal(a, b) for a, b in zip(expected, call(), strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_streams_at_once(backend: str) -> None:
    cases = [to_device(make_case((4, *SDXL), torch.bfloat16, seed=i)) for i in range(4)]
    expected = [outcome(case, tgo_loss, backend=backend) for case in cases]
    one = [by_loss_and_grad(case, backend=backend) for case in cases]
    streams = [torch.cuda.Stream() for _ in cases]
    torch.cuda.synchronize()
    for _ in range(10):
        found, again = [], []
        for case, stream in zip(cases, streams, strict=True):
            with torch.cuda.stream(stream):
                found.append(outcome(case, tgo_loss, backend=backend))
                again.append(by_loss_and_grad(case, backend=backend))
        torch.cuda.synchronize()
        for a, b in zip(expected + one, found + again, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("shape", [(4, *SDXL), (2, *WAN)])
def test_cuda_graph(backend: str, shape: tuple[int, ...]) -> None:
    case = to_device(make_case(shape, torch.bfloat16))

    def step() -> tuple[Tensor, ...]:
        loss = case.call(tgo_loss, backend=backend)
        (gradient,) = torch.autograd.grad(loss, case.policy_pred)
        return loss.detach(), gradient, *case.call(loss_and_grad, backend=backend)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for seed in (1, 2):
        other = to_device(make_case(shape, torch.bfloat16, seed=seed))
        with torch.no_grad():
            case.policy_pred.copy_(other.policy_pred)
            case.target.copy_(other.target)
            case.reference_pred.copy_(other.reference_pred)
            case.scores.copy_(other.scores)
        graph.replay()
        replayed = [tensor.clone() for tensor in captured]
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(replayed, captured, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(replayed, step(), strict=True))


@pytest.mark.parametrize("backend", KERNELS)
def test_more_rows_than_one_dimension_of_a_grid(backend: str) -> None:
    case = to_device(make_case((70_000, 8), torch.float32))
    assert_as_good_as_eager(case, backend=backend)
    assert_same(case, backend)


@pytest.mark.parametrize("backend", KERNELS)
def test_more_than_2_31_elements(backend: str) -> None:
    free, _ = torch.cuda.mem_get_info()
    rows, elements = 3, 2**30
    if free < 2.5 * 2 * 2 * rows * elements:
        pytest.skip("needs 32 GB of free GPU memory")
    policy = torch.zeros(rows, elements, dtype=torch.bfloat16, device="cuda")
    target = torch.zeros_like(policy)
    policy[2, -1] = 2.0
    error = prediction_error(policy, target, backend=backend)
    assert error.tolist() == [0.0, 0.0, 4.0 / elements]
    scores = torch.ones(rows, device="cuda")
    _, gradient = loss_and_grad(
        *(policy, target, scores, 0.5),
        reference_error=torch.zeros(rows, device="cuda"), backend=backend, loss_scale=2.0**20,
    )  # fmt: skip
    assert gradient[2, -1] > 0 and int(gradient.count_nonzero()) == 1


@pytest.mark.parametrize("backend", KERNELS)
def test_compiles_as_one_graph(backend: str) -> None:
    case = to_device(make_case((4, 4, 32, 32), torch.bfloat16))
    compiled = torch.compile(tgo_loss, fullgraph=True)
    expected = outcome(case, tgo_loss, backend=backend)
    found = outcome(case, compiled, backend=backend)
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=0, atol=0)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", KERNELS)
def test_no_synchronisation(backend: str) -> None:
    case = to_device(make_case((4, *SDXL), torch.bfloat16))
    outcome(case, tgo_loss, backend=backend)
    by_loss_and_grad(case, backend=backend)
    torch.cuda.set_sync_debug_mode("error")
    try:
        outcome(case, tgo_loss, backend=backend)
        by_loss_and_grad(case, backend=backend)
    finally:
        torch.cuda.set_sync_debug_mode("default")
