"""The CPU kernels over rows of logits against the formulas in float64."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from tests.ops.loss_cases import HALF_AND_SINGLE
from tests.ops.token_cases import assert_as_good_as_eager, assert_loss_is_right, make_token_case
from tglo import ops
from tglo.ops import token_chunks, token_rows

pytestmark = pytest.mark.skipif(
    not ops.EXTENSION.loaded, reason=f"no CPU kernels: {ops.EXTENSION.problem}"
)

# Vocabularies below, at and above a vector and a float block; one row and several chunks.
SHAPES = (
    (1, 1, 4, 16),
    (3, 7, 8, 3),
    (2, 9, 8, 37),
    (2, 50, 16, 1000),
    (2, 17, 8, 8192),
    (1, 3, 4, 262144),
)


@pytest.fixture(params=[token_chunks.CHUNK_ROWS, 5])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(token_chunks, "CHUNK_ROWS", request.param)
    return int(request.param)


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(
    shape: tuple[int, int, int, int], dtype: torch.dtype, chunk: int
) -> None:
    assert_as_good_as_eager(make_token_case(shape, dtype, bias=shape[3] != 37), backend="cpu")


@pytest.mark.parametrize("form", ["hidden", "log_prob", "error"])
@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
def test_loss(dtype: torch.dtype, form: str, chunk: int) -> None:
    for reduction in ("mean", "sum", "none"):
        case = make_token_case((4, 9, 8, 37), dtype, beta=0.7, temperature=0.3, reduction=reduction)
        case.mask[1], case.mask[2] = False, True
        case.targets[2] = 5  # repeated
        case.targets[1] = -1
        assert_loss_is_right(case, backend="cpu", form=form)


def _chunk(rows: int, vocabulary: int, count: int) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(rows, vocabulary, generator=random)
    bias = torch.randn(vocabulary, generator=random)
    targets = torch.randint(0, vocabulary, (2 * rows,), generator=random)
    order = torch.randperm(2 * rows, generator=random)
    return logits, bias, targets, order, torch.tensor(count)


@pytest.mark.parametrize("vocabulary", [1, 15, 16, 513])
def test_rows_write_their_places_alone(vocabulary: int) -> None:
    """A chunk that starts at row 2, whose last row stands for no position and holds NaN."""
    logits, bias, targets, order, count = _chunk(6, vocabulary, 7)
    logits[5] = float("nan")
    out, lse = torch.full((12,), 7.0), torch.full((12,), 7.0)
    torch.ops.tglo.token_rows(logits.clone(), bias, targets, order, count, 2, out, lse)
    places, rest = order[2:7], torch.cat((order[:2], order[7:]))
    wide = (logits[:5] + bias).double()
    expected = torch.log_softmax(wide, 1).gather(1, targets[places, None])[:, 0]
    torch.testing.assert_close(out[places].double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(lse[places].double(), wide.logsumexp(1), rtol=1e-6, atol=1e-6)
    assert (out[rest] == 7).all() and (lse[rest] == 7).all()

    grad, results = torch.randn(12), []
    for run in (torch.ops.tglo.token_rows_gradient, token_rows.token_rows_gradient):
        for inside in (True, False):
            buffer = logits.clone()
            gradient = buffer if inside else torch.full_like(buffer, float("nan"))
            run(buffer, bias, targets, order, count, 2, lse, grad, gradient)
            results.append(gradient)
    onehot = torch.nn.functional.one_hot(targets[places], vocabulary)
    truth = grad[places, None].double() * (onehot - wide.softmax(1))
    for result in results:
        assert not result[5].any()
        torch.testing.assert_close(result[:5].double(), truth, rtol=2e-6, atol=2e-6)
    assert torch.equal(results[0], results[1])


def test_extreme_logits() -> None:
    """Minus infinity is a token that cannot be; NaN and plus infinity are not hidden."""
    low = float("-inf")
    rows = torch.tensor([[0.0, low, 1.0], [low, low, 2.0], [1e30, -1e30, 0.0], [-3e38] * 3])
    rows = torch.cat((rows, torch.tensor([[0.0, float("nan"), 1.0], [0.0, float("inf"), 1.0]])))
    targets, order = torch.tensor([0, 2, 0, 1, 0, 0]), torch.arange(6)
    for run in (torch.ops.tglo.token_rows, token_rows.token_rows):
        out, lse = torch.zeros(6), torch.zeros(6)
        run(rows.clone(), None, targets, order, torch.tensor(6), 0, out, lse)
        expected = torch.tensor([rows[0].log_softmax(0)[0], 0.0, 0.0, -torch.tensor(3.0).log()])
        torch.testing.assert_close(out[:4], expected)
        assert out[4:].isnan().all()
        gradient = torch.empty(6, 3)
        arguments = None, targets, order, torch.tensor(6), 0, lse, torch.ones(6), gradient
        torch.ops.tglo.token_rows_gradient(rows.clone(), *arguments)
        assert gradient[:4].isfinite().all() and not gradient[1].any()


def test_exponential_is_accurate_over_its_whole_range() -> None:
    x = torch.linspace(-100, 0, 40001).view(1, -1).contiguous()
    gradient, one = torch.empty_like(x), torch.ones(1)
    arguments = None, torch.tensor([-1]), torch.tensor([0]), torch.tensor(1), 0
    torch.ops.tglo.token_rows_gradient(x.clone(), *arguments, torch.zeros(1), -one, gradient)
    truth = x.double().exp()
    normal = truth > 1.3e-38
    assert ((gradient.double() - truth)[normal] / truth[normal]).abs().max() < 2.0**-22
    assert (gradient[~normal] <= 1.3e-38).all()


def test_bitwise_repeatable_whatever_the_threads() -> None:
    """The row kernels repeat on any number of threads; with the matrix products between them, on one."""
    case = make_token_case((2, 40, 8, 5000), torch.bfloat16)
    logits, bias, targets, order, count = _chunk(40, 5000, 40)
    before, results, rows = torch.get_num_threads(), [], []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            out, lse, gradient = torch.zeros(80), torch.zeros(80), torch.empty_like(logits)
            arguments = bias, targets, order, count, 0
            torch.ops.tglo.token_rows(logits, *arguments, out, lse)
            torch.ops.tglo.token_rows_gradient(logits, *arguments, lse, out, gradient)
            rows.append((out, lse, gradient))
            if threads == 2:
                loss = case.loss()
                results.append((loss.detach(), *torch.autograd.grad(loss, case.inputs)))
    finally:
        torch.set_num_threads(before)
    for result in rows[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, rows[0], strict=True))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_rows_refuse_what_they_would_misread() -> None:
    logits, bias, targets, order, count = _chunk(4, 16, 4)
    out = torch.zeros(8)

    def run(**changed: Tensor) -> None:
        given = {"logits": logits, "bias": bias, "targets": targets, "order": order} | changed
        torch.ops.tglo.token_rows(*given.values(), count, 0, out, out.clone())

    run()
    for changed, reason in (
        ({"logits": logits.double()}, "logits must be contiguous float32"),
        ({"logits": logits[:, ::2]}, "logits must be contiguous float32"),
        ({"bias": bias[:5]}, "bias must be contiguous float32 of 16 elements"),
        ({"targets": targets.int()}, "targets must be contiguous int64"),
        ({"order": order[:3]}, "rows from 0 to 4 of 3"),
    ):
        with pytest.raises(RuntimeError, match=reason):
            run(**changed)


BASELINE = """
import torch
from tests.csrc import test_tokens_cpu as t
from tglo import ops
assert ops.EXTENSION.instructions == "baseline", ops.EXTENSION
for dtype in t.HALF_AND_SINGLE:
    for shape in t.SHAPES[:4]:
        t.assert_as_good_as_eager(t.make_token_case(shape, dtype), backend="cpu")
t.test_rows_write_their_places_alone(513)
t.test_extreme_logits()
t.test_exponential_is_accurate_over_its_whole_range()
"""


def test_baseline_instruction_set() -> None:
    """The kernels for CPUs without AVX2 are in the same binary; they get a process of their own."""
    environment = {**os.environ, "TGLO_CPU_INSTRUCTIONS": "baseline", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", BASELINE], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
