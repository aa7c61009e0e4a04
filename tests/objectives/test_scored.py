"""Each objective of single samples is its formula, written here anew in float64; KTO's z0 and BCO's
delta take no gradient and go over all processes.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from tests.objectives.cases import BACKENDS, Formula, T, assert_is, gain, make_given, mean_square
from tglo import prediction_error
from tglo.objectives import OBJECTIVES, Given, Settings


def z_of(given: Given) -> Tensor:
    return torch.where(given.scores < given.threshold, -1.0, 1.0).double()


def tgo(p: Tensor, given: Given) -> Tensor:
    weight = 1 + 5 * (given.scores - given.threshold).abs()
    return (weight * torch.log(1 + torch.exp(-z_of(given) * gain(p, given) / T))).mean()


def sft(p: Tensor, given: Given) -> Tensor:
    good = given.scores >= given.threshold
    return (given.timestep_weight * mean_square(p, given.target))[good].mean()


def csft(p: Tensor, given: Given) -> Tensor:
    return (given.timestep_weight * mean_square(p, given.target)).mean()


def kto(p: Tensor, given: Given) -> Tensor:
    r = gain(p, given) / T
    z0 = max(r.mean().item(), 0.0)  # a number: no gradient
    weight = torch.where(given.scores < given.threshold, 0.7, 1.5).double()
    return (weight * (1 - 1 / (1 + torch.exp(-z_of(given) * (r - z0))))).mean()


def bco(p: Tensor, given: Given) -> Tensor:
    r = gain(p, given) / T
    delta = r.mean().item()  # of the first micro batch
    return -torch.log(1 / (1 + torch.exp(-z_of(given) * (r - delta)))).mean()


def qrpo(p: Tensor, given: Given) -> Tensor:
    beta = 0.1
    residual = given.quantile - beta * (math.log(beta) + 1 / beta) - beta * gain(p, given) / T
    return (residual**2).mean()


FORMULAS: dict[str, Formula] = {
    "tgo": tgo, "sft": sft, "csft": csft, "kto": kto, "bco": bco, "qrpo": qrpo,
}  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FORMULAS)
def test_loss_and_gradient_are_the_formula(name: str, dtype: torch.dtype, backend: str) -> None:
    if dtype == torch.float64 and backend != "reference":
        pytest.skip("kernels take up to float32")
    settings = Settings(positive_weight=1.5, negative_weight=0.7, backend=backend)
    for seed in range(3):  # with baselines below and above 0
        given = make_given(dtype=dtype, seed=seed)
        assert_is(OBJECTIVES[name](settings), given, FORMULAS[name])
        if not OBJECTIVES[name].needs_reference:
            continue
        stored = prediction_error(given.reference_pred, given.target, backend=backend)
        cached = dataclasses.replace(given, reference_pred=None, reference_error=stored)
        loss, stats = OBJECTIVES[name](settings)(cached, T)
        expected, others = OBJECTIVES[name](settings)(given, T)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(
            stats.implicit_score, others.implicit_score, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("name", FORMULAS)
def test_statistics(name: str) -> None:
    given = make_given()
    _, stats = OBJECTIVES[name]()(given, T)
    assert [tuple(x.shape) for x in stats] == [(6,)] * 5
    assert not any(x.requires_grad for x in stats)
    assert torch.equal(stats.label, given.scores >= given.threshold)
    torch.testing.assert_close(
        stats.policy_error, mean_square(given.policy_pred.detach(), given.target)
    )
    beta = 0.1 if name == "qrpo" else 1.0
    expected = beta * gain(given.policy_pred.detach(), given) / T
    if not OBJECTIVES[name].needs_reference:
        expected = torch.zeros(6, dtype=torch.float64)
    torch.testing.assert_close(stats.implicit_score, expected, rtol=1e-5, atol=1e-6)


def test_beta_is_the_settings_where_given() -> None:
    for name, kind in OBJECTIVES.items():
        assert kind(Settings(beta=0.3)).beta == 0.3
        assert kind().beta == kind.default_beta == (0.1 if name == "qrpo" else 1.0)


@pytest.mark.parametrize(("shared", "expected"), [(0.7, 0.7), (-0.7, 0.0)])
def test_the_baseline_of_kto_is_that_of_all_processes(shared: float, expected: float) -> None:
    given = make_given()
    mine: list[Tensor] = []

    def average(mean: Tensor) -> Tensor:
        mine.append(mean)
        return torch.full_like(mean, shared)

    def formula(p: Tensor, given: Given) -> Tensor:
        return torch.sigmoid(-z_of(given) * (gain(p, given) / T - expected)).mean()

    assert_is(OBJECTIVES["kto"](average=average), given, formula)
    assert mine[0].item() == pytest.approx(float((gain(given.policy_pred, given) / T).mean()), 1e-5)


def test_the_published_strength_of_kto_is_t_0_001() -> None:
    """1000 times -(e_theta - e_ref), without 0.5."""
    given = make_given()
    assert OBJECTIVES["kto"].default_temperature is None  # the family's: 0.001 for SD1.5
    _, stats = OBJECTIVES["kto"]()(given, 1e-3)
    expected = 1000 * gain(given.policy_pred.detach(), given)
    torch.testing.assert_close(stats.implicit_score, expected, rtol=1e-5, atol=1e-4)


def test_delta_of_bco_is_the_mean_so_far_and_is_restored_exactly() -> None:
    objective, seen = OBJECTIVES["bco"](), []
    for seed in range(3):
        given = make_given(seed=seed)
        seen.append(gain(given.policy_pred.detach(), given) / T)
        delta = float(torch.cat(seen).mean())

        def formula(p: Tensor, given: Given, delta: float = delta) -> Tensor:
            return torch.nn.functional.softplus(-z_of(given) * (gain(p, given) / T - delta)).mean()

        if seed == 2:  # goes on as another object
            restored = OBJECTIVES["bco"]()
            restored.restore(objective.state())
            assert restored.state() == objective.state()
            objective = restored
        assert_is(objective, given, formula)
    assert objective.state()["count"] == 3
    fresh = OBJECTIVES["bco"]()
    fresh.restore({})
    assert fresh.state() == {"sum": 0.0, "count": 0.0}


def test_extreme_log_ratios_stay_finite() -> None:
    for name in ("tgo", "kto", "bco"):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            given = make_given(dtype=dtype)
            loss, stats = OBJECTIVES[name]()(given, 1e-6)
            (gradient,) = torch.autograd.grad(loss, given.policy_pred)
            assert stats.implicit_score.abs().max() > 1e3 and loss.isfinite()
            assert gradient.isfinite().all()


def test_delta_of_bco_follows_a_changed_temperature() -> None:
    """It is a mean of errors' differences: r at another T, or of a renewed reference, is not mixed in."""
    bco, given = OBJECTIVES["bco"](), make_given()
    _, first = bco(given, T)
    _, second = bco(given, 1000 * T)
    assert second.implicit_score.mean() == pytest.approx(first.implicit_score.mean() / 1000)
    fresh = OBJECTIVES["bco"]()
    expected, _ = fresh(given, 1000 * T)
    found, _ = bco(given, 1000 * T)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    bco.restore({})
    assert bco.state() == {"sum": 0.0, "count": 0.0}
