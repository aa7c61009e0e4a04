"""Diffusion-KTO's script: the step with its labels, and what docs/drop-in.md puts in its place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.drop_in.miniature import assert_same, gradient, make_step, plain_loss, run, squares
from tglo import sft_loss, tgo_loss

BETA = 1000


@pytest.fixture
def space() -> dict[str, Any]:
    torch.manual_seed(1)
    names = make_step(torch.randn(6, 4, 8, 8))
    names["batch"]["labels"] = torch.tensor([True, True, False, True, False, True])
    args = SimpleNamespace(beta_dpo=BETA, lambda_d_kto=1.0, lambda_u_kto=1.5)
    return names | {"args": args}


def before(space: dict[str, Any], baseline: float | None = None) -> dict[str, Tensor]:
    """The script's losses and what it logs, with its names; one process."""
    target, labels, args = space["target"], space["batch"]["labels"], space["args"]
    errors = (space["model_pred"] - target).square().mean((1, 2, 3))
    ref_errors = (space["ref_preds"] - target).square().mean((1, 2, 3))
    kl = (ref_errors - errors).mean().detach()
    kl = kl.clamp(min=0) if baseline is None else kl.new_tensor(baseline)
    g_term = ref_errors - errors - kl
    x = (2 * labels.float() - 1) * args.beta_dpo * g_term
    weight = torch.where(labels, args.lambda_d_kto, args.lambda_u_kto)
    return {
        "loss": (weight * (1 - torch.sigmoid(x))).mean(),
        "loss_averse": (weight * (1 - torch.nn.functional.logsigmoid(x))).mean(),
        "sft": (errors * labels).mean(),
        "raw_model_loss": errors.mean(),
        "ref_loss": ref_errors.mean(),
        "kl": kl,
        "likelyhood": g_term.mean(),
        "diff_pos": g_term[labels].mean(),
        "diff_neg": g_term[~labels].mean(),
        "acc": (x > 0).float().mean(),
    }


def test_the_call_is_the_formula(space: dict[str, Any]) -> None:
    run("kto-after", space)
    labels = space["batch"]["labels"]
    weight = torch.where(labels, 1.0, 1.5).double()
    other = squares(space["ref_preds"], space["target"])

    def truth(prediction: Tensor) -> Tensor:
        difference = squares(prediction, space["target"]) - other
        return (weight * plain_loss(difference, labels, temperature=1 / BETA, confidence=0)).mean()

    assert_same(space["loss"], space["model_pred"], truth)
    gradient(space)
    assert torch.equal(space["stats"].weight, weight)


def test_what_the_script_logs(space: dict[str, Any]) -> None:
    run("kto-after", space)
    stats, gain, positive = space["stats"], space["gain"], space["positive"]
    there = before(space, baseline=0.0)
    here = {
        "raw_model_loss": stats.policy_error.mean(),
        "ref_loss": stats.reference_error.mean(),
        "likelyhood": gain.mean(),
        "diff_pos": gain[positive].mean(),
        "diff_neg": gain[space["negative"]].mean(),
        "acc": ((stats.implicit_score > 0) == positive).double().mean(),
    }
    for name, value in here.items():
        torch.testing.assert_close(value.float(), there[name].detach(), rtol=1e-3, atol=1e-6)
    with_kl = before(space)
    torch.testing.assert_close(gain.mean().clamp(min=0).float(), with_kl["kl"], atol=1e-6, rtol=0)
    assert positive.sum() == 4 and space["negative"].sum() == 2


def test_loss_averse_is_the_loss_and_1_more(space: dict[str, Any]) -> None:
    space["args"].lambda_u_kto = 1.0
    run("kto-after", space)
    there = before(space, baseline=0.0)["loss_averse"]
    torch.testing.assert_close(space["loss"] + 1, there, rtol=1e-4, atol=0)
    slopes = [
        torch.autograd.grad(value, space["model_pred"], retain_graph=True)[0]
        for value in (space["loss"], there)
    ]
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-6)


def test_its_sft_divides_by_all(space: dict[str, Any]) -> None:
    inputs = space["model_pred"], space["target"], space["batch"]["labels"], 0.5
    total = sft_loss(*inputs, reduction="sum") / 6
    torch.testing.assert_close(total, before(space)["sft"])
    torch.testing.assert_close(sft_loss(*inputs) * 4, total * 6)


def test_the_weight_of_labels_with_a_confidence(space: dict[str, Any]) -> None:
    inputs = space["model_pred"], space["target"], space["batch"]["labels"], 0.5
    _, stats = tgo_loss(*inputs, reference_pred=space["ref_preds"], return_stats=True)
    assert stats.weight.tolist() == [3.5] * 6
