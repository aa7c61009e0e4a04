"""LAIR and the safeguards of SDPO and TGO are their formulas in float64, and keep what they promise."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.objectives.cases import BACKENDS, T, assert_is, gain, make_batch
from tglo.objectives import OBJECTIVES, Labels, MicroBatch, Objective, Settings
from tglo.objectives.lair import LAIRConstants
from tglo.objectives.safeguard import allowed
from tglo.objectives.sdpo import SDPOConstants
from tglo.objectives.tgo import TGOConstants

both = pytest.mark.parametrize("backend", BACKENDS)
exact = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def skip(dtype: torch.dtype, backend: str) -> None:
    if dtype == torch.float64 and backend != "reference":
        pytest.skip("kernels take up to float32")


def advantages(scores: Tensor, group: int, unit: float) -> Tensor:
    """Row i, i + B / G, ... are a group."""
    result = torch.zeros_like(scores)
    for first in range(len(scores) // group):
        rows = range(first, len(scores), len(scores) // group)
        shares = torch.exp(scores[list(rows)] / unit)
        result[list(rows)] = shares / shares.sum() - 1 / group
    return result


@both
@exact
@pytest.mark.parametrize("group", [2, 3])
def test_lair_is_its_formula(group: int, dtype: torch.dtype, backend: str) -> None:
    skip(dtype, backend)
    batch = replace(make_batch(dtype=dtype), group=group)
    settings = Settings(backend=backend, beta=1.5, score_scale=0.5)
    objective = OBJECTIVES["lair"](settings, constants=LAIRConstants(0.4, 0.3))

    def lair(p: Tensor, batch: MicroBatch) -> Tensor:
        r = 1.5 * gain(p, batch) / T
        advantage = advantages(batch.labels.scores, group, 0.5 * 0.4)
        return (-advantage * r + 0.15 * r**2).mean()

    assert_is(objective, batch, lair)


def test_the_optimum_of_lair_is_the_advantage_over_lambda() -> None:
    """Errors chosen so that r = A / lambda: no gradient there, and a larger loss on either side."""
    batch, penalty = replace(make_batch(dtype=torch.float64), group=3), 0.5
    objective = OBJECTIVES["lair"](constants=LAIRConstants(0.2, penalty))
    advantage = objective.advantage(batch)  # type: ignore[attr-defined]
    assert advantage.abs().min() > 1e-3
    torch.testing.assert_close(advantage.view(3, -1).sum(0), torch.zeros(2).double())

    def at(r: Tensor) -> tuple[float, Tensor]:
        target, others = batch.draw.target, batch.reference_pred - batch.draw.target
        error = others.square().mean((1, 2, 3)) - T * r / batch.timestep_weight
        assert (error > 0).all()
        scale = (error / others.square().mean((1, 2, 3))).sqrt()[:, None, None, None]
        policy = (target + scale * others).requires_grad_()
        loss, stats = objective(replace(batch, policy_pred=policy), T)
        torch.testing.assert_close(stats.implicit_score, r)
        return loss.item(), torch.autograd.grad(loss, policy)[0]

    optimum = advantage / penalty
    best, slope = at(optimum)
    assert slope.abs().max() < 1e-12 and at(0.9 * optimum)[1].abs().max() > 1e-5
    assert best == pytest.approx(float((-advantage.square() / (2 * penalty)).mean()))
    for row in range(6):
        for step in (-0.05, 0.05):
            assert at(optimum + step * torch.eye(6).double()[row])[0] > best


def test_equal_scores_and_a_group_of_one_have_no_advantage() -> None:
    batch = make_batch()
    labels = Labels(torch.full((6,), 7.0).double(), batch.labels.thresholds, batch.labels.quantiles)
    objective = OBJECTIVES["lair"]()
    for given in (replace(batch, labels=labels, group=3), batch):
        _, stats = objective(given, T)
        assert not stats.weight.any() and not stats.label.any()
    # Large scores neither overflow nor lose the difference.
    far = dataclasses.replace(labels, scores=torch.tensor([1e6, 0, 0, 0, 1e6 + 1, 1e6]).double())
    _, stats = objective(replace(batch, labels=far, group=2), T)
    assert stats.weight.isfinite().all() and stats.label.tolist() == [
        True,
        False,
        False,
        False,
        True,
        True,
    ]


def released_scale(p: Tensor, batch: MicroBatch, mu: float) -> Tensor:
    """Of each pair, by automatic differentiation of its two errors."""
    scales = []
    half = len(p) // 2
    for i in range(half):
        winner, loser = (p[j].detach().requires_grad_() for j in (i, i + half))
        targets = batch.draw.target.double()
        errors = (winner - targets[i]).pow(2).mean(), (loser - targets[i + half]).pow(2).mean()
        a, b = (torch.autograd.grad(e, x)[0] for e, x in zip(errors, (winner, loser), strict=True))
        product = (a * b).sum()
        free = (1 - mu) * (a * a).sum() / product
        scales.append(free.clamp(max=1.0) if product > 0 else torch.ones(()).double())
    return torch.stack(scales)


def aligned(batch: MicroBatch, share: float = 0.7) -> MicroBatch:
    """Residuals of the second half that resemble those of the first, but in the last unit oppose them."""
    half = len(batch.policy_pred) // 2
    residual = (batch.policy_pred - batch.draw.target).detach()
    sign = torch.ones(half, 1, 1, 1, dtype=residual.dtype)
    sign[-1] = -1
    residual[half:] += share * sign * residual[:half]
    return replace(batch, policy_pred=(batch.draw.target + residual).requires_grad_())


@both
@exact
@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9, 1.0])
def test_sdpo_is_its_formula(mu: float, dtype: torch.dtype, backend: str) -> None:
    skip(dtype, backend)
    batch = aligned(make_batch(dtype=dtype))
    objective = OBJECTIVES["sdpo"](Settings(backend=backend), constants=SDPOConstants(mu))
    scale = released_scale(batch.policy_pred.double(), batch, mu)
    assert scale[-1] == 1 and (scale[:-1] < 1).all() == (mu > 0.4)

    def sdpo(p: Tensor, batch: MicroBatch) -> Tensor:
        winner, loser = (gain(p, batch) / T).chunk(2)
        loser = loser.detach() * (1 - scale) + scale * loser  # the value of DPO
        return -torch.log(1 / (1 + torch.exp(loser - winner))).mean()

    assert_is(objective, batch, sdpo)
    loss, stats = objective(batch, T)
    plain, others = OBJECTIVES["dpo"](Settings(backend=backend))(batch, T)
    assert torch.equal(loss, plain) and torch.equal(stats.implicit_score, others.implicit_score)


def test_one_pair_has_the_scale_of_the_released_code() -> None:
    """Sums over the micro batch there: the same for one pair; mu 0.9 and beta_dpo 5000 are its defaults."""
    kind = OBJECTIVES["sdpo"]
    assert kind.default_temperature == OBJECTIVES["dpo"].default_temperature
    assert kind().constants.mu == 0.9
    batch = aligned(make_batch(rows=2, dtype=torch.float64), share=0.7)
    batch = replace(batch, policy_pred=aligned(batch, -1.4).policy_pred)  # undo the opposing sign
    winner, loser = batch.residual().chunk(2)
    assert (winner * loser).sum() > 0
    a, b = (2 * x / x.numel() for x in (winner, loser))
    expected = 0.1 * a.square().sum() / (a * b).sum()
    torch.testing.assert_close(allowed(winner, loser, 0.9), expected[None])


def step(objective: Objective, batch: MicroBatch, rows: Tensor) -> float:
    """The change of the rows' mean square error, per unit of a step that moves all predictions as one."""
    loss, _ = objective(batch, T)
    (gradient,) = torch.autograd.grad(loss, batch.policy_pred)
    moved = gradient.unflatten(0, (batch.group, -1)).sum(0).repeat(batch.group, 1, 1, 1)
    slope = 2 * (batch.policy_pred.detach() - batch.draw.target) / gradient[0].numel()
    return float((-moved * slope)[rows].sum())


def test_the_winners_errors_do_not_grow() -> None:
    batch = aligned(make_batch(dtype=torch.float64), 2.0)
    batch = replace(batch, group=2, timestep_weight=1.0)  # a pair has one timestep
    for pair in range(3):
        winner = torch.tensor([pair])
        free = step(OBJECTIVES["dpo"](), batch, winner)
        kept = step(OBJECTIVES["sdpo"](constants=SDPOConstants(0.0)), batch, winner)
        assert kept <= 1e-12 and (free > 1e-6) == (pair < 2), pair  # the last pair opposes
        assert step(OBJECTIVES["sdpo"](), batch, winner) <= min(kept, -1e-9)


def labelled(batch: MicroBatch, positive: list[int], group: int) -> MicroBatch:
    scores = torch.tensor(positive).double() * 0.6 + torch.linspace(0, 0.3, len(positive)).double()
    return replace(batch, labels=replace(batch.labels, scores=scores), group=group)


@both
@exact
def test_tgo_with_a_safeguard_is_its_formula(dtype: torch.dtype, backend: str) -> None:
    skip(dtype, backend)
    # Two groups of three: one of both sides, one of negatives alone.
    batch = labelled(aligned(make_batch(dtype=dtype), 2.0), [1, 0, 0, 0, 1, 0], 3)
    settings = Settings(backend=backend)
    objective = OBJECTIVES["tgo"](settings, constants=TGOConstants(0.5))

    def tgo(p: Tensor, batch: MicroBatch) -> Tensor:
        scores, tau = batch.labels.scores, batch.labels.thresholds
        z = torch.where(scores < tau, -1.0, 1.0).double()
        weight = 1 + 5 * (scores - tau).abs()
        r = gain(p, batch) / T
        v = (batch.timestep_weight * weight / (1 + torch.exp(z * r))).detach()
        pulled = v[:, None] * (p - batch.draw.target.double()).detach().flatten(1)
        scale = torch.ones(6).double()
        for rows in ([0, 2, 4], [1, 3, 5]):
            down, up = (sum(pulled[i] for i in rows if z[i] == side) for side in (1, -1))
            if isinstance(down, Tensor) and isinstance(up, Tensor) and (down * up).sum() > 0:
                share = 0.5 * (down * down).sum() / (down * up).sum()
                scale[[i for i in rows if z[i] < 0]] = share.clamp(max=1.0)
        r = r.detach() * (1 - scale) + scale * r
        return (weight * torch.log(1 + torch.exp(-z * r))).mean()

    # float32 residuals make the scale, not the loss, less exact.
    if dtype == torch.float64:
        assert_is(objective, batch, tgo)
    plain, others = OBJECTIVES["tgo"](settings)(batch, T)
    loss, stats = objective(batch, T)
    torch.testing.assert_close(loss, plain)
    for mine, theirs in zip(stats, others, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_positives_errors_do_not_grow() -> None:
    batch = labelled(aligned(make_batch(dtype=torch.float64), 2.0), [1, 1, 1, 0, 0, 0], 2)
    # The reference as far from the target as the policy: sigmoids of 1 / 2.
    reference_pred = 2 * batch.draw.target - batch.policy_pred.detach()
    batch = replace(batch, reference_pred=reference_pred, timestep_weight=1.0)
    settings = Settings(confidence=0.0)
    for unit in range(3):
        rows = torch.tensor([unit])
        free = step(OBJECTIVES["tgo"](settings), batch, rows)
        kept = step(OBJECTIVES["tgo"](settings, constants=TGOConstants(0.0)), batch, rows)
        assert kept <= 1e-12 and (free > 1e-6) == (unit < 2)


def test_weights_of_the_labels_count_in_the_safeguard() -> None:
    batch = labelled(aligned(make_batch(dtype=torch.float64), 3.0), [1, 1, 1, 0, 0, 0], 2)
    weight = 1 + 5 * (batch.labels.scores - batch.labels.thresholds).abs()
    given = replace(batch, labels=replace(batch.labels, weights=weight))
    objective = OBJECTIVES["tgo"](constants=TGOConstants(0.2))
    results = [torch.autograd.grad(objective(b, T)[0], b.policy_pred)[0] for b in (batch, given)]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (LAIRConstants, {"penalty": 0.0}, "objective.lair.penalty is 0.0; it must be above 0"),
        (LAIRConstants, {"score_temperature": float("nan")}, "score_temperature is nan"),
        (SDPOConstants, {"mu": 1.5}, r"objective.sdpo.mu is 1.5; it must be in \[0, 1\]"),
        (TGOConstants, {"safeguard": -0.1}, r"objective.tgo.safeguard is -0.1"),
    ],
)
def test_constants_out_of_range(kind: type, values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**values)
