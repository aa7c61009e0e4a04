"""SimpleTuner's loss and its Flow-DPO distiller, and what docs/drop-in.md puts in their place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.drop_in.miniature import Adapted, assert_same, gradient, make_step, plain_loss, run
from tglo import log_ratio, sft_loss


class Distiller:
    """The two attributes that the block uses."""

    def __init__(self, network: Adapted) -> None:
        self.network = network
        self.teacher_model = SimpleNamespace(model_predict=self.predict)

    def toggle_adapter(self, enable: bool) -> None:
        self.network.set_multiplier(float(enable))

    def predict(self, prepared: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = prepared["noisy_latents"], prepared["timesteps"], prepared["text"]
        return {"model_prediction": self.network(*inputs)}


@pytest.fixture
def space() -> dict[str, Any]:
    torch.manual_seed(6)
    names = make_step(torch.randn(4, 4, 8, 8))
    network = Adapted(names["reference"])
    distiller = Distiller(network)
    prepared = {name: names[name] for name in ("noisy_latents", "timesteps", "text")}
    prepared["scores"] = names["batch"]["scores"]
    conditioning = torch.rand(4, 1, 8, 8) * 2 - 1
    return names | {
        "self": distiller,
        "policy": network,
        "prepared_batch": prepared,
        "model_output": distiller.predict(prepared),
        "mse_loss_weights": torch.rand(4).view(-1, 1, 1, 1),
        "mask_image": conditioning / 2 + 0.5,
    }


def before(space: dict[str, Any]) -> Tensor:
    """ModelFoundation.loss with snr_gamma and a mask."""
    prediction = space["model_output"]["model_prediction"]
    loss = functional.mse_loss(prediction, space["target"], reduction="none")
    loss = loss * space["mse_loss_weights"] * space["mask_image"]
    return loss.mean((1, 2, 3)).mean()


def test_the_call_is_the_formula(space: dict[str, Any]) -> None:
    prediction = space["model_output"]["model_prediction"]
    run("simpletuner-after", space)
    known = space["ref_output"]["model_prediction"]
    inputs = space["noisy_latents"], space["timesteps"], space["text"]
    assert torch.equal(known, space["policy"].base(*inputs))
    assert space["policy"].multiplier > 0
    weight = (space["mse_loss_weights"] * space["mask_image"]).double()

    def errors(prediction: Tensor) -> Tensor:
        square = (prediction.double() - space["target"].double()).square()
        return (weight * square).mean((1, 2, 3))

    def truth(prediction: Tensor) -> Tensor:
        difference = errors(prediction) - errors(known)
        return plain_loss(difference, space["prepared_batch"]["scores"]).mean()

    assert_same(space["loss"], prediction, truth)
    gradient(space)


def test_fine_tuning_on_all_is_its_loss(space: dict[str, Any]) -> None:
    prediction = space["model_output"]["model_prediction"]
    options: dict[str, Any] = {"mask": space["mask_image"], "mask_mean": "elements"}
    options |= {"timestep_weight": space["mse_loss_weights"]}
    loss = sft_loss(prediction, space["target"], torch.ones(4), 0.5, **options)
    there = before(space)
    torch.testing.assert_close(loss, there)
    slopes = [
        torch.autograd.grad(value, prediction, retain_graph=True)[0] for value in (loss, there)
    ]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("norm_type", ["sum", "mean", "masked_mean"])
@pytest.mark.parametrize("with_mask", [True, False])
def test_flow_dpo_is_a_difference_of_log_ratios(
    norm_type: str, with_mask: bool, space: dict[str, Any]
) -> None:
    """Rows 0 and 1 are preferred, rows 2 and 3 rejected."""
    beta, elements = 3.0, 4 * 8 * 8
    mask = space["mask_image"] if with_mask else torch.ones(4, 1, 8, 8)
    prediction, known = space["model_pred"], space["ref_preds"]

    def errors(prediction: Tensor) -> Tensor:
        total = ((prediction - space["target"]).square() * mask).sum((1, 2, 3))
        if norm_type == "sum":
            return total
        return total / (elements if norm_type == "mean" else 4 * mask.sum((1, 2, 3)))

    win, lose = (errors(prediction) - errors(known)).chunk(2)
    there = 0.5 * beta * (lose - win)
    ratio = log_ratio(
        prediction,
        space["target"],
        reference_pred=known,
        temperature=2 / (beta * elements) if norm_type == "sum" else 2 / beta,
        mask=mask if with_mask else None,
        mask_mean="mask" if norm_type == "masked_mean" else "elements",
    )
    here = ratio[:2] - ratio[2:]
    torch.testing.assert_close(here.float(), there, rtol=1e-3, atol=1e-4)
