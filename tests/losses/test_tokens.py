"""The token losses as users call them: formulas, forms of the reference, masks, errors, memory."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

import tglo
from tests.ops.loss_cases import HALF_AND_SINGLE
from tests.ops.token_cases import (
    assert_as_good_as_eager,
    assert_loss_is_right,
    gradients,
    log_prob_truth,
    make_token_case,
    widened,
)
from tglo import ops, reference
from tglo.ops import token_chunks

BACKENDS = [name for name in ("reference", "cpu") if not ops.backends()[name]]
SMALL = (4, 9, 8, 37)


@pytest.fixture
def five_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of five rows: several of them, the last one short."""
    monkeypatch.setattr(token_chunks, "CHUNK_ROWS", 5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
def test_plain_backend_is_as_good_as_eager(dtype: torch.dtype, bias: bool, five_rows: None) -> None:
    assert_as_good_as_eager(make_token_case(SMALL, dtype, bias=bias), backend="reference")


@pytest.mark.parametrize("form", ["hidden", "log_prob", "error"])
@pytest.mark.parametrize("dtype", [*HALF_AND_SINGLE, torch.float64])
def test_loss_of_the_plain_backend(dtype: torch.dtype, form: str, five_rows: None) -> None:
    for reduction in ("mean", "none"):
        case = make_token_case(SMALL, dtype, beta=0.7, temperature=0.3, reduction=reduction)
        assert_loss_is_right(case, backend="reference", form=form)


def test_float64_equals_the_formula_and_its_gradient(five_rows: None) -> None:
    case = make_token_case(SMALL, torch.float64)
    found, truth, outer = case.log_prob(), log_prob_truth(case), torch.randn(4, 9)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)
    for a, b in zip(gradients(found, case, outer), gradients(truth, case, outer), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_one_token_by_hand() -> None:
    """p = (1/4, 3/4) for a vocabulary of two."""
    hidden = torch.tensor([[[1.0], [5.0]]], requires_grad=True)
    weight = torch.tensor([[0.0], [math.log(3.0)]])
    targets, mask = torch.tensor([[1, 7]]), torch.tensor([[True, False]])
    arguments = hidden, weight, targets, mask
    assert tglo.token_log_prob(*arguments).tolist() == [[pytest.approx(math.log(0.75)), 0.0]]
    error = tglo.token_error(*arguments)
    assert error.tolist() == [pytest.approx(-math.log(0.75))]
    (gradient,) = torch.autograd.grad(error.sum(), hidden)
    assert gradient.flatten().tolist() == [pytest.approx(-0.25 * math.log(3.0)), 0.0]
    loss, stats = tglo.tgo_token_loss(
        *arguments, torch.tensor([1.0]), 0.5,
        reference_error=torch.tensor([-math.log(0.25)], dtype=torch.float64),
        beta=2.0, confidence=4.0, return_stats=True,
    )  # fmt: skip
    r = 2 * math.log(3.0)
    assert stats.implicit_score.tolist() == [pytest.approx(r)]
    assert loss.item() == pytest.approx(3 * math.log1p(math.exp(-r)), rel=1e-6)
    assert stats.label.tolist() == [True] and stats.weight.tolist() == [3.0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_token_masked_and_all(backend: str, five_rows: None) -> None:
    case = make_token_case(SMALL, torch.float32)
    case.mask[0], case.mask[1] = False, True
    case.targets[1] = 3
    error = case.error(backend=backend)
    truth = reference.token_error(log_prob_truth(widened(case)), case.mask)
    torch.testing.assert_close(error, truth.detach(), rtol=1e-6, atol=1e-6)
    assert error[0] == 0.0
    (gradient,) = torch.autograd.grad(error.sum(), case.hidden)
    assert not gradient[~case.mask].any() and gradient[1].abs().sum(-1).all()

    for form in ("hidden", "log_prob", "error"):
        loss, stats = case.loss(form, backend=backend, reduction="none", return_stats=True)
        assert stats.implicit_score[0] == 0.0
        assert loss[0].item() == pytest.approx(stats.weight[0].item() * math.log(2), rel=1e-6)
    cached = tglo.tgo_token_loss(
        case.hidden, case.weight, case.targets, case.mask, case.scores, 0.5, bias=case.bias,
        reference_error=torch.ones(4), backend=backend, return_stats=True,
    )  # fmt: skip
    assert cached[1].implicit_score[0] == 0.0

    case.mask[:] = False
    for value in (case.log_prob(backend=backend).sum(), case.loss(backend=backend)):
        assert not any(g.any() for g in torch.autograd.grad(value, case.inputs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_masked_is_not_looked_at(backend: str) -> None:
    results = []
    for inside in (0.0, float("nan"), float("inf")):
        case = make_token_case(SMALL, torch.float32)
        with torch.no_grad():
            case.hidden[~case.mask] = inside
        case.other_hidden[~case.mask] = inside
        loss = case.loss(backend=backend)
        results.append((loss.detach(), *torch.autograd.grad(loss, case.inputs)))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_upstream_gradients_of_what_is_not_masked_are_not_looked_at(backend: str) -> None:
    case = make_token_case(SMALL, torch.float16)
    value, outer = case.log_prob(backend=backend), torch.randn(4, 9)
    expected = gradients(value, case, torch.where(case.mask, outer, 0.0))
    for other in (math.nan, math.inf):
        found = gradients(value, case, torch.where(case.mask, outer, other))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("largest", "scale"), [(0.0, 1.0), (1e-37, 4096e30), (1e-30, 4096e30), (1.0, 4096.0)]
)
def test_the_scale_of_float16_gradients_is_finite(largest: float, scale: float) -> None:
    """Only a GPU computes with it."""
    grad = torch.tensor([-largest, largest / 2, math.nan, math.inf])
    mask = torch.tensor([True, True, False, False])
    found = token_chunks._scale(grad, mask)
    assert found.item() == pytest.approx(scale, rel=1e-6)
    scaled = (grad[mask] * found).half()
    assert scaled.isfinite().all() and scaled.bool().all() == bool(largest)
    torch.testing.assert_close(scaled.float() / found, grad[mask], rtol=1e-3, atol=0)
    assert token_chunks._scale(grad[:0], mask[:0]).item() == 4096.0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
def test_log_ratio_of_equal_inputs_is_exactly_zero(
    dtype: torch.dtype, backend: str, five_rows: None
) -> None:
    case = make_token_case(SMALL, dtype, distance=0.0)
    for form in ("hidden", "log_prob", "error"):
        loss, stats = case.loss(form, backend=backend, return_stats=True)
        assert stats.implicit_score.tolist() == [0.0] * 4
        assert torch.equal(stats.policy_error, stats.reference_error)
        assert all(g.abs().max() > 0 for g in torch.autograd.grad(loss, case.inputs))


@pytest.mark.parametrize("rows", [1024, 5])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_host_that_does_not_know_the_count(
    backend: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens on a GPU: rows of positions that are not masked, even NaN, change nothing, and a
    bound that is too low gives NaN.
    """
    monkeypatch.setattr(token_chunks, "CHUNK_ROWS", rows)
    case = make_token_case(SMALL, torch.float32)
    with torch.no_grad():
        case.hidden[~case.mask] = float("nan")
    case.mask[1] = False
    count, results = int(case.mask.sum()), []
    for bound in (count, None, 36, count + 2, count):
        if results:  # the first is counted
            monkeypatch.setattr(token_chunks, "masked_positions", token_chunks.uncounted_positions)
        loss = case.loss(backend=backend, max_masked=bound)
        results.append((loss.detach(), *torch.autograd.grad(loss, case.inputs)))
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert case.loss(backend=backend, max_masked=count - 1).isnan()
    assert case.log_prob(backend=backend, max_masked=count - 1).isnan().any()


def test_reference_weight_is_the_policys_by_default() -> None:
    case = make_token_case(SMALL, torch.float32)
    arguments = case.hidden, case.weight, case.targets, case.mask, case.scores, 0.5
    options: dict[str, Any] = {"bias": case.bias, "reference_hidden": case.other_hidden}
    assert case.bias is not None
    expected = tglo.tgo_token_loss(
        *arguments,
        **options,
        reference_weight=case.weight.detach(),
        reference_bias=case.bias.detach(),
    )
    assert torch.equal(tglo.tgo_token_loss(*arguments, **options), expected)
    without = tglo.tgo_token_loss(*arguments, **options, reference_weight=case.weight.detach())
    assert not torch.equal(without, expected)  # a weight without a bias has none


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_inputs(backend: str, five_rows: None) -> None:
    case = make_token_case(SMALL, torch.bfloat16)
    outer = torch.randn(4, 9)
    plain = case.log_prob(backend=backend)
    expected = [plain, *gradients(plain, case, outer)]
    batch, tokens, width, vocabulary = SMALL
    longer = torch.full((batch, tokens + 2, 2 * width), float("nan"), dtype=torch.bfloat16)
    longer[:, 1:-1, ::2] = case.hidden.detach()
    inside = case.hidden.detach().permute(1, 2, 0).contiguous().permute(2, 0, 1)
    wide = torch.full((vocabulary, 2 * width), float("nan"), dtype=torch.bfloat16)
    wide[:, ::2] = case.weight.detach()
    for hidden in (longer[:, 1:-1, ::2], inside):
        for weight in (wide[:, ::2], case.weight.detach().t().contiguous().t()):
            other = case._replace(
                hidden=hidden.requires_grad_(),
                weight=weight.detach().requires_grad_(),
                mask=case.mask.t().contiguous().t(),
                targets=case.targets.t().contiguous().t(),
            )
            found = other.log_prob(backend=backend)
            for a, b in zip([found, *gradients(found, other, outer)], expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-5)
            hidden.requires_grad_(False)


def test_dtypes_are_promoted_and_autocast_is_left_alone() -> None:
    case = make_token_case(SMALL, torch.float32)
    half = case._replace(hidden=case.hidden.detach().bfloat16().requires_grad_())
    value = half.log_prob()
    assert value.dtype == torch.float32
    hidden, weight, _ = torch.autograd.grad(value.sum(), half.inputs)
    assert hidden.dtype == torch.bfloat16 and weight.dtype == torch.float32
    for backend in BACKENDS:
        plain = case.loss(backend=backend)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(case.loss(backend=backend), plain)


def test_gradients_only_where_they_are_wanted() -> None:
    case = make_token_case(SMALL, torch.float32)
    expected = torch.autograd.grad(case.loss(), case.inputs)
    for i, name in enumerate(("hidden", "weight", "bias")):
        frozen = case._replace(
            **{n: getattr(case, n).detach() for n in ("hidden", "weight", "bias") if n != name}
        )
        (gradient,) = torch.autograd.grad(frozen.loss(), getattr(case, name))
        assert torch.equal(gradient, expected[i])
    with torch.no_grad():
        assert not case.loss().requires_grad and not case.error().requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_derivative_raises(backend: str) -> None:
    case = make_token_case(SMALL, torch.float32)
    for value in (case.log_prob(backend=backend).sum(), case.loss(backend=backend)):
        (gradient,) = torch.autograd.grad(value, case.hidden, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative"):
            gradient.sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_as_one_graph(backend: str) -> None:
    torch._dynamo.reset()
    case = make_token_case(SMALL, torch.float32)

    def both(hidden: torch.Tensor) -> torch.Tensor:
        changed = case._replace(hidden=hidden * 1.5)
        return changed.loss(backend=backend) + changed.error(backend=backend).sum()

    plain = both(case.hidden)
    expected = gradients(plain, case, torch.ones(()))
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")(case.hidden)
    torch.testing.assert_close(compiled, plain)
    for a, b in zip(gradients(compiled, case, torch.ones(())), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck(backend: str) -> None:
    case = make_token_case((2, 5, 4, 7), torch.float32)
    head = [x.detach() for x in (case.hidden, case.weight, case.bias)] + [case.targets, case.mask]
    settings = (None, backend)
    torch.library.opcheck(torch.ops.tglo.token_log_prob.default, (*head, *settings))
    log_prob, logsumexp = torch.ops.tglo.token_log_prob(*head, *settings)
    for needs in ([True] * 3, [False, True, False]):
        more = (logsumexp, torch.ones_like(log_prob), needs)
        torch.library.opcheck(torch.ops.tglo.token_gradient.default, (*head, *settings, *more))


def test_wrong_arguments_are_named() -> None:
    case = make_token_case(SMALL, torch.float32)
    h, w, t, m, s = case.hidden, case.weight, case.targets, case.mask, case.scores
    other = case.other_hidden
    for arguments, reason in (
        ((h[0], w, t, m), r"hidden has shape \(9, 8\); it must be \(B, N, D\)"),
        ((h, w[:, :3], t, m), r"weight has shape \(37, 3\); it must be \(V, 8\)"),
        ((h, w, t[:, :3], m), r"targets has shape \(4, 3\)"),
        ((h, w, t, m[:2]), r"mask has shape \(2, 9\)"),
    ):
        with pytest.raises(ValueError, match=reason):
            tglo.token_log_prob(*arguments)
    for arguments, reason in (
        ((h.int(), w, t, m), "hidden has dtype torch.int32"),
        ((h, w, t.int(), m), "targets has dtype torch.int32; pass torch.int64"),
        ((h, w, t, m.float()), "mask has dtype torch.float32; pass torch.bool"),
        ((h, None, t, m), "weight is a NoneType"),
    ):
        with pytest.raises(TypeError, match=reason):
            tglo.token_error(*arguments)
    for options, reason in (
        ({}, "none of reference_hidden, reference_log_prob and reference_error given"),
        (
            {"reference_hidden": other, "reference_error": s},
            "reference_hidden and reference_error of",
        ),
        ({"reference_hidden": h}, "the very tensor passed as hidden"),
        (
            {"reference_hidden": other.clone().requires_grad_()},
            "reference_hidden requires a gradient",
        ),
        ({"reference_hidden": other[:, :5]}, "batch and tokens must agree"),
        ({"reference_error": s, "reference_weight": w}, "reference_weight or reference_bias given"),
        ({"reference_error": s[:3]}, r"reference_error has shape \(3,\)"),
        ({"reference_log_prob": s}, r"reference_log_prob has shape \(4,\); it must be \(4, 9\)"),
        ({"reference_error": s, "temperature": 0.0}, "temperature is 0"),
        ({"reference_error": s, "bias": s}, r"bias has shape \(4,\); it must be \(37,\)"),
        ({"reference_error": s, "max_masked": 3}, "positions are masked but max_masked is 3"),
        ({"reference_error": s, "max_masked": -1}, "max_masked is -1"),
    ):
        with pytest.raises(ValueError, match=reason):
            tglo.tgo_token_loss(h, w, t, m, s, 0.5, **options)


def test_an_unknown_token_gives_nan() -> None:
    for backend in BACKENDS:
        for token in (-1, 37):
            case = make_token_case(SMALL, torch.float32)
            case.mask[2, 3] = True
            case.targets[2, 3] = token
            value = case.log_prob(backend=backend)
            assert value[2, 3].isnan() and value.isnan().sum() == 1
            assert case.loss(backend=backend).isnan()


@pytest.mark.skipif("cpu" not in BACKENDS, reason="needs the CPU kernels")
@pytest.mark.parametrize("token", [-1, 37])
def test_an_unknown_token_is_nobody_in_the_gradient(token: int) -> None:
    case = make_token_case(SMALL, torch.float32)
    case.mask[2, 3], case.targets[2, 3] = True, token
    results = []
    for backend in BACKENDS:
        value = case.log_prob(backend=backend)
        results.append(gradients(value, case, torch.ones_like(value)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_empty_batch() -> None:
    for backend in BACKENDS:
        case = make_token_case((0, 9, 8, 37), torch.float32)
        assert case.log_prob(backend=backend).shape == (0, 9)
        assert case.loss(backend=backend).item() == 0.0


def test_a_small_training_run_moves_the_log_ratio() -> None:
    """The log-ratio of positives rises and that of negatives falls."""
    case = make_token_case((8, 6, 16, 32), torch.float32, bias=False, distance=0.0)
    scores = torch.tensor([0.0, 1.0] * 4)
    start = case.hidden.detach().clone()
    optimizer = torch.optim.SGD([case.hidden], lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        loss, stats = tglo.tgo_token_loss(
            case.hidden, case.weight.detach(), case.targets, case.mask, scores, 0.5,
            reference_hidden=start, return_stats=True,
        )  # fmt: skip
        loss.backward()
        optimizer.step()
    assert (stats.implicit_score[scores == 1] > 0.05).all()
    assert (stats.implicit_score[scores == 0] < -0.05).all()


MEMORY = """
import sys
from benchmarks.tokens.measure import check_named
place = {"task": "log-prob", "size": "tiny", "batch": 2, "dtype": "float32", "device": "cpu"}
print(check_named(**place, contender=sys.argv[1], backend="auto")["peak_bytes"])
"""


@pytest.mark.skipif("cpu" not in BACKENDS, reason="needs the CPU kernels")
def test_peak_memory_is_a_fraction_of_eagers() -> None:
    """A chunk of 1,024 rows is here most of what is masked; the full size is measured by
    benchmarks/tokens.
    """
    path = os.pathsep.join(p for p in sys.path if p)
    peaks = {}
    for name in ("eager", "tglo"):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, name],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": "65536"},
        )
        assert done.returncode == 0, done.stderr
        peaks[name] = float(done.stdout)
    assert peaks["tglo"] < 0.35 * peaks["eager"], peaks
