"""Flow-Factory's DPO trainer: samples with advantages, and what docs/drop-in.md puts in its place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.drop_in.miniature import assert_same, gradient, make_step, plain_loss, run, squares

BETA, GROUPS, SIZE = 2000.0, 2, 4


@pytest.fixture
def space() -> dict[str, Any]:
    """Two groups of four samples of a flow model; advantages are rewards less their group's mean, over a deviation."""
    torch.manual_seed(2)
    names = make_step(torch.randn(GROUPS * SIZE, 4, 8, 8))
    rewards = torch.rand(GROUPS, SIZE, dtype=torch.float64)
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / rewards.std()).flatten()
    samples = [SimpleNamespace(extra_kwargs={"advantage": a}) for a in advantages]
    trainer = SimpleNamespace(training_args=SimpleNamespace(beta=BETA))
    names |= {"samples": samples, "self": trainer, "target": names["noise"] - names["latents"]}
    return names | {
        "theta_pred": names["model_pred"],
        "ref_pred": names["ref_preds"],
        "true_advantages": advantages,
    }


def before(space: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The trainer's loss on the best and the worst of each group, and its implicit rewards of (chosen, rejected)."""
    advantages = space["true_advantages"].view(GROUPS, SIZE)
    offset = SIZE * torch.arange(GROUPS)
    rows = torch.stack([advantages.argmax(1) + offset, advantages.argmin(1) + offset])
    errors = [
        (space[name] - space["target"]).square().mean((1, 2, 3))
        for name in ("theta_pred", "ref_pred")
    ]
    rewards = -0.5 * BETA * (errors[0] - errors[1])[rows]
    return -functional.logsigmoid(rewards[0] - rewards[1]).mean(), rewards


def test_the_call_is_the_formula(space: dict[str, Any]) -> None:
    run("flow-factory-after", space)
    other = squares(space["ref_pred"], space["target"])

    def truth(prediction: Tensor) -> Tensor:
        difference = squares(prediction, space["target"]) - other
        scores = space["true_advantages"].float()
        return plain_loss(difference, scores, 0.0, temperature=2 / BETA).mean()

    assert_same(space["loss"], space["model_pred"], truth)
    gradient(space)


def test_implicit_scores_are_the_trainers_implicit_rewards(space: dict[str, Any]) -> None:
    stats = run("flow-factory-after", space)["stats"]
    _, there = before(space)
    advantages = space["true_advantages"].view(GROUPS, SIZE)
    scores = stats.implicit_score.view(GROUPS, SIZE)
    here = torch.stack(
        [
            scores.gather(1, best[:, None])[:, 0]
            for best in (advantages.argmax(1), advantages.argmin(1))
        ]
    )
    torch.testing.assert_close(here.float(), there.detach(), rtol=1e-3, atol=1e-3)


def test_every_sample_teaches_and_not_only_the_best_and_the_worst(space: dict[str, Any]) -> None:
    run("flow-factory-after", space)
    loss, _ = before(space)
    pairs, all_rows = (
        torch.autograd.grad(value, space["model_pred"], retain_graph=True)[0].flatten(1).any(1)
        for value in (loss, space["loss"])
    )
    assert pairs.sum() == 2 * GROUPS and all_rows.sum() == GROUPS * SIZE
    assert torch.equal(space["stats"].label, space["true_advantages"] >= 0)
