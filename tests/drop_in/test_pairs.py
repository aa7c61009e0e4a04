"""Diffusion-DPO's and diffusers' DPO scripts: the step with its pairs, and what docs/drop-in.md puts in its place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.drop_in.miniature import (
    PAGE,
    assert_same,
    gradient,
    make_step,
    plain_loss,
    run,
    squares,
)
from tglo import log_ratio, tgo_loss

PAIRS = 20
# In diffusers' train_diffusion_dpo.py the sigmoid sees beta_dpo times the difference, in the others half of it.
SCRIPTS = {"train.py": (0.5, 5000), "dpo_sdxl": (0.5, 5000), "dpo": (1.0, 2500)}


def make_examples() -> dict[str, list[Any]]:
    """A data set of pairs whose people preferred the image of the higher score, nearly always. An image shows its
    score in its first element.
    """
    torch.manual_seed(3)
    images, scores = torch.randn(2, PAIRS, 4, 8, 8), torch.rand(2, PAIRS)
    images[:, :, 0, 0, 0] = scores
    label_0 = (scores[0] > scores[1]).double()
    label_0[0], label_0[1] = 1 - label_0[0], 0.5
    return {
        "jpg_0": list(images[0]),
        "jpg_1": list(images[1]),
        "score_0": scores[0].tolist(),
        "score_1": scores[1].tolist(),
        "label_0": label_0.tolist(),
    }


def preprocess(examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """As the scripts do: the winner's channels first, the loser's after them."""
    pairs = zip(examples["jpg_0"], examples["jpg_1"], examples["label_0"], strict=True)
    examples["pixel_values"] = [
        torch.cat([second, first] if label_0 == 0 else [first, second])
        for first, second, label_0 in pairs
    ]
    return examples


@pytest.fixture
def space() -> dict[str, Any]:
    """The step of the scripts up to their loss, for all pairs as one batch; what an image shows is its score."""
    examples = run("dpo-scores", make_step(torch.zeros(1, 4, 8, 8)))["add_scores"](
        preprocess(make_examples())
    )
    rows = [dict(zip(examples, row, strict=True)) for row in zip(*examples.values(), strict=True)]
    pixel_values = torch.stack([row["pixel_values"] for row in rows])
    latents = torch.cat(pixel_values.chunk(2, dim=1))
    names = run("dpo-scores", make_step(latents, pairs=True))
    batch = {"scores": names["collate_scores"](rows)}
    return names | {
        "rows": rows,
        "batch": batch,
        "scores": names["scores_of"](batch),
        "true_scores": latents[:, 0, 0, 0],
        "args": SimpleNamespace(temperature=1e-3, beta_dpo=5000),
    }


def before(space: dict[str, Any], half: float, beta: float) -> dict[str, Tensor]:
    """The scripts' loss and what they log, with their names."""
    prediction, other, target = (space[name] for name in ("model_pred", "ref_preds", "target"))
    errors = (prediction - target).square().mean((1, 2, 3))
    ref_errors = (other - target).square().mean((1, 2, 3))
    winners, losers = (errors - ref_errors).chunk(2)
    inside = half * beta * (losers - winners)
    return {
        "loss": -functional.logsigmoid(inside).mean(),
        "inside": inside,
        "raw_model_loss": errors.mean(),
        "raw_ref_loss": ref_errors.mean(),
    }


def test_joining_the_columns_mislabels_the_pairs_that_were_swapped(space: dict[str, Any]) -> None:
    true = space["true_scores"] >= 0.5
    columns = [
        torch.tensor([row[name] for row in space["rows"]]) for name in ("score_0", "score_1")
    ]
    wrong = (torch.cat(columns) >= 0.5) != true
    swapped = torch.tensor([row["label_0"] == 0 for row in space["rows"]])
    apart = (columns[0] >= 0.5) != (columns[1] >= 0.5)
    assert torch.equal(wrong, (swapped & apart).repeat(2))
    assert wrong.sum() == 16  # 8 of 20 pairs have both of their images mislabelled
    assert torch.equal(space["scores"], space["true_scores"])  # so none has now


@pytest.mark.parametrize("script", SCRIPTS)
def test_temperature_makes_the_log_ratios_those_of_the_script(
    script: str, space: dict[str, Any]
) -> None:
    half, beta = SCRIPTS[script]
    there = before(space, half, beta)
    written = f"temperature={1 if half == 1 else 2} / args.beta_dpo"
    assert f"`{written}`" in PAGE
    temperature = eval(written.split("=")[1], {"args": SimpleNamespace(beta_dpo=beta)})
    ratio = log_ratio(
        space["model_pred"],
        space["target"],
        reference_pred=space["ref_preds"],
        temperature=temperature,
    )
    winners, losers = ratio.chunk(2)
    torch.testing.assert_close((winners - losers).float(), there["inside"], rtol=1e-3, atol=1e-3)
    loss = -functional.logsigmoid(winners - losers).mean()
    torch.testing.assert_close(loss.float(), there["loss"], rtol=1e-4, atol=0)
    slopes = [
        torch.autograd.grad(value, space["model_pred"], retain_graph=True)[0]
        for value in (loss, there["loss"])
    ]
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-6)


def test_the_call_is_the_formula(space: dict[str, Any]) -> None:
    space["args"].temperature = 2 / space["args"].beta_dpo
    run("dpo-after", space)
    other = squares(space["ref_preds"], space["target"])

    def truth(prediction: Tensor) -> Tensor:
        difference = squares(prediction, space["target"]) - other
        return plain_loss(difference, space["true_scores"], temperature=2 / 5000).mean()

    assert_same(space["loss"], space["model_pred"], truth)
    gradient(space)


def test_what_the_scripts_log(space: dict[str, Any]) -> None:
    stats = run("dpo-after", space)["stats"]
    there = before(space, 0.5, 2000)
    torch.testing.assert_close(stats.policy_error.mean().float(), there["raw_model_loss"].detach())
    torch.testing.assert_close(stats.reference_error.mean().float(), there["raw_ref_loss"])
    accuracy = ((stats.implicit_score > 0) == stats.label).float().mean()
    errors = squares(space["model_pred"], space["target"])
    better = errors < squares(space["ref_preds"], space["target"])
    assert accuracy == (better == (space["true_scores"] >= 0.5)).float().mean()


def test_winners_alone(space: dict[str, Any]) -> None:
    """Without scores: the first half won, and a tie is not scored; with c = 0 the weight is 1."""
    label_0 = torch.tensor([row["label_0"] for row in space["rows"]])
    scores, scored = torch.arange(2 * PAIRS) < PAIRS, (label_0 != 0.5).repeat(2)
    assert scored.sum() == 2 * PAIRS - 2
    options = {"reference_pred": space["ref_preds"], "confidence": 0, "scored": scored}
    inputs = space["model_pred"], space["target"]
    loss, stats = tgo_loss(*inputs, scores, 0.5, return_stats=True, **options)
    assert torch.equal(stats.weight, scored.double())
    other = squares(space["ref_preds"], space["target"])

    def truth(prediction: Tensor) -> Tensor:
        difference = squares(prediction, space["target"]) - other
        return plain_loss(difference, scores, confidence=0)[scored].mean()

    assert_same(loss, space["model_pred"], truth)
