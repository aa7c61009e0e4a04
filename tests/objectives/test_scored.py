"""Each objective of single samples is its formula, written here anew in float64; KTO's z0 and BCO's
delta take no gradient and go over all processes.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from tests.objectives.cases import BACKENDS, Formula, T, assert_is, gain, make_batch, mean_square
from tglo import prediction_error, sft_loss, tgo_loss
from tglo.objectives import OBJECTIVES, MicroBatch, Objective, Settings
from tglo.objectives.kto import KTOConstants


def z_of(batch: MicroBatch) -> Tensor:
    return torch.where(batch.labels.scores < batch.labels.thresholds, -1.0, 1.0).double()


def tgo(p: Tensor, batch: MicroBatch) -> Tensor:
    weight = 1 + 5 * (batch.labels.scores - batch.labels.thresholds).abs()
    return (weight * torch.log(1 + torch.exp(-z_of(batch) * gain(p, batch) / T))).mean()


def sft(p: Tensor, batch: MicroBatch) -> Tensor:
    good = batch.labels.scores >= batch.labels.thresholds
    return (batch.timestep_weight * mean_square(p, batch.draw.target))[good].mean()


def csft(p: Tensor, batch: MicroBatch) -> Tensor:
    return (batch.timestep_weight * mean_square(p, batch.draw.target)).mean()


def kto(p: Tensor, batch: MicroBatch) -> Tensor:
    r = gain(p, batch) / T
    z0 = max(r.mean().item(), 0.0)  # a number: no gradient
    weight = torch.where(batch.labels.scores < batch.labels.thresholds, 0.7, 1.5).double()
    return (weight * (1 - 1 / (1 + torch.exp(-z_of(batch) * (r - z0))))).mean()


def bco(p: Tensor, batch: MicroBatch) -> Tensor:
    r = gain(p, batch) / T
    delta = r.mean().item()  # of the first micro batch
    return -torch.log(1 / (1 + torch.exp(-z_of(batch) * (r - delta)))).mean()


def qrpo(p: Tensor, batch: MicroBatch) -> Tensor:
    beta = 0.1
    residual = (
        batch.labels.quantiles - beta * (math.log(beta) + 1 / beta) - beta * gain(p, batch) / T
    )
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
    settings = Settings(backend=backend)
    constants = KTOConstants(1.5, 0.7) if name == "kto" else None

    def objective() -> Objective:
        return OBJECTIVES[name](settings, constants=constants)

    for seed in range(3):  # with baselines below and above 0
        batch = make_batch(dtype=dtype, seed=seed)
        assert_is(objective(), batch, FORMULAS[name])
        if not OBJECTIVES[name].needs_reference:
            continue
        stored = prediction_error(batch.reference_pred, batch.draw.target, backend=backend)
        cached = dataclasses.replace(batch, reference_pred=None, reference_error=stored)
        loss, stats = objective()(cached, T)
        expected, others = objective()(batch, T)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(
            stats.implicit_score, others.implicit_score, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_tgo_and_sft_are_the_drop_in_losses_bit_for_bit(backend: str) -> None:
    batch, settings = make_batch(), Settings(confidence=3.0, backend=backend)
    arguments = (batch.policy_pred, batch.draw.target, batch.labels.scores, batch.labels.thresholds)
    options = {
        "timestep_weight": batch.timestep_weight,
        "return_stats": True,
        "backend": backend,
    }
    tuned = {"reference_pred": batch.reference_pred, "temperature": T, "confidence": 3.0}
    for name, (loss, stats) in {
        "tgo": tgo_loss(*arguments, **tuned, **options),
        "sft": sft_loss(*arguments, **options),
    }.items():
        found, others = OBJECTIVES[name](settings)(batch, T)
        assert torch.equal(found, loss) and found.dtype == loss.dtype
        for mine, theirs in zip(others, stats, strict=True):
            assert torch.equal(mine, theirs) and mine.dtype == theirs.dtype
        gradients = [torch.autograd.grad(x, batch.policy_pred)[0] for x in (found, loss)]
        assert torch.equal(*gradients)


@pytest.mark.parametrize("name", FORMULAS)
def test_statistics(name: str) -> None:
    batch = make_batch()
    _, stats = OBJECTIVES[name]()(batch, T)
    assert [tuple(x.shape) for x in stats] == [(6,)] * 5
    assert not any(x.requires_grad for x in stats)
    assert torch.equal(stats.label, batch.labels.scores >= batch.labels.thresholds)
    torch.testing.assert_close(
        stats.policy_error, mean_square(batch.policy_pred.detach(), batch.draw.target)
    )
    beta = 0.1 if name == "qrpo" else 1.0
    expected = beta * gain(batch.policy_pred.detach(), batch) / T
    if not OBJECTIVES[name].needs_reference:
        expected = torch.zeros(6, dtype=torch.float64)
    torch.testing.assert_close(stats.implicit_score, expected, rtol=1e-5, atol=1e-6)


def test_beta_is_the_settings_where_given() -> None:
    for name, kind in OBJECTIVES.items():
        assert kind(Settings(beta=0.3)).beta == 0.3
        assert kind().beta == kind.default_beta == (0.1 if name == "qrpo" else 1.0)


@pytest.mark.parametrize(("shared", "expected"), [(0.7, 0.7), (-0.7, 0.0)])
def test_the_baseline_of_kto_is_that_of_all_processes(shared: float, expected: float) -> None:
    batch = make_batch()
    mine: list[Tensor] = []

    def average(mean: Tensor) -> Tensor:
        mine.append(mean)
        return torch.full_like(mean, shared)

    def formula(p: Tensor, batch: MicroBatch) -> Tensor:
        return torch.sigmoid(-z_of(batch) * (gain(p, batch) / T - expected)).mean()

    assert_is(OBJECTIVES["kto"](average=average), batch, formula)
    assert mine[0].item() == pytest.approx(float((gain(batch.policy_pred, batch) / T).mean()), 1e-5)


def test_the_published_strength_of_kto_is_t_0_001() -> None:
    """1000 times -(e_theta - e_ref), without 0.5."""
    batch = make_batch()
    assert OBJECTIVES["kto"].default_temperature is None  # the family's: 0.001 for SD1.5
    _, stats = OBJECTIVES["kto"]()(batch, 1e-3)
    expected = 1000 * gain(batch.policy_pred.detach(), batch)
    torch.testing.assert_close(stats.implicit_score, expected, rtol=1e-5, atol=1e-4)


def test_delta_of_bco_is_the_mean_so_far_and_is_restored_exactly() -> None:
    objective, seen = OBJECTIVES["bco"](), []
    for seed in range(3):
        batch = make_batch(seed=seed)
        seen.append(gain(batch.policy_pred.detach(), batch) / T)
        delta = float(torch.cat(seen).mean())

        def formula(p: Tensor, batch: MicroBatch, delta: float = delta) -> Tensor:
            return torch.nn.functional.softplus(-z_of(batch) * (gain(p, batch) / T - delta)).mean()

        if seed == 2:  # goes on as another object
            restored = OBJECTIVES["bco"]()
            restored.restore(objective.state())
            assert restored.state() == objective.state()
            objective = restored
        assert_is(objective, batch, formula)
    assert objective.state()["count"] == 3
    fresh = OBJECTIVES["bco"]()
    fresh.restore({})
    assert fresh.state() == {"sum": 0.0, "count": 0.0}


def test_extreme_log_ratios_stay_finite() -> None:
    for name in ("tgo", "kto", "bco"):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            batch = make_batch(dtype=dtype)
            loss, stats = OBJECTIVES[name]()(batch, 1e-6)
            (gradient,) = torch.autograd.grad(loss, batch.policy_pred)
            assert stats.implicit_score.abs().max() > 1e3 and loss.isfinite()
            assert gradient.isfinite().all()


def test_delta_of_bco_follows_a_changed_temperature() -> None:
    """It is a mean of errors' differences: r at another T, or of a renewed reference, is not mixed in."""
    bco, batch = OBJECTIVES["bco"](), make_batch()
    _, first = bco(batch, T)
    _, second = bco(batch, 1000 * T)
    assert second.implicit_score.mean() == pytest.approx(first.implicit_score.mean() / 1000)
    fresh = OBJECTIVES["bco"]()
    expected, _ = fresh(batch, 1000 * T)
    found, _ = bco(batch, 1000 * T)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    bco.restore({})
    assert bco.state() == {"sum": 0.0, "count": 0.0}
