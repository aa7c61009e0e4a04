"""kohya sd-scripts' process_batch, and what docs/drop-in.md puts in its place."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.drop_in.miniature import Adapted, assert_same, gradient, make_step, plain_loss, run
from tglo import sft_loss


class Trainer:
    """The two methods that the block calls; as there, the second multiplies losses by weights of the timestep."""

    def __init__(self, network: Adapted) -> None:
        self.network = network

    def call_unet(self, *arguments: Any) -> Tensor:
        _, _, _, noisy_latents, timesteps, conditions, _, _ = arguments
        return self.network(noisy_latents, timesteps, conditions[0])  # type: ignore[no-any-return]

    def post_process_loss(self, loss: Tensor, args: Any, timesteps: Tensor, _: Any) -> Tensor:
        share = timesteps / 1000
        snr = (1 - share) / share
        loss = loss * snr.clamp(max=args.min_snr_gamma) / snr
        return loss + loss / (snr / (snr + 1)) * args.v_pred_like_loss


@pytest.fixture
def space() -> dict[str, Any]:
    """A LoRA's step on four images and two regularisation images, with an alpha mask."""
    torch.manual_seed(5)
    names = make_step(torch.randn(6, 4, 8, 8))
    network = Adapted(names["reference"])
    inputs = names["noisy_latents"], names["timesteps"], names["text"]
    alpha = torch.rand(6, 64, 64)
    regular = torch.tensor([False, False, True, False, True, False])
    names["batch"] |= {
        "loss_weights": torch.where(regular, 0.7, torch.tensor([1.0, 0.5, 1, 2, 1, 1])),
        "scored": ~regular,
        "scores": names["batch"]["scores"].masked_fill(regular, torch.nan),
    }
    return names | {
        "self": Trainer(network),
        "network": network,
        "policy": network,
        "noise_pred": network(*inputs),
        "text_encoder_conds": [names["text"]],
        "weight_dtype": torch.float32,
        "accelerator": SimpleNamespace(autocast=contextlib.nullcontext),
        "noise_scheduler": None,
        "args": SimpleNamespace(min_snr_gamma=5.0, v_pred_like_loss=0.5),
        "mask_image": functional.interpolate(alpha.unsqueeze(1), size=(8, 8), mode="area"),
    }


def before(space: dict[str, Any]) -> Tensor:
    """process_batch's loss, with --masked_loss."""
    loss = functional.mse_loss(space["noise_pred"], space["target"], reduction="none")
    loss = (loss * space["mask_image"]).mean((1, 2, 3)) * space["batch"]["loss_weights"]
    timesteps = space["timesteps"]
    return space["self"].post_process_loss(loss, space["args"], timesteps, None).mean()  # type: ignore[no-any-return]


def omega(space: dict[str, Any]) -> Tensor:
    ones = torch.ones(6, dtype=torch.float64)
    return space["self"].post_process_loss(ones, space["args"], space["timesteps"], None)  # type: ignore[no-any-return]


def masked(space: dict[str, Any], prediction: Tensor) -> Tensor:
    square = (prediction.double() - space["target"].double()).square()
    return (square * space["mask_image"].double()).mean((1, 2, 3))


@pytest.mark.parametrize("with_mask", [True, False])
def test_the_call_is_the_formula(with_mask: bool, space: dict[str, Any]) -> None:
    if not with_mask:
        space["mask_image"] = None
    run("kohya-after", space)
    if not with_mask:
        space["mask_image"] = torch.ones(6, 1, 8, 8)
    inputs = space["noisy_latents"], space["timesteps"], space["text"]
    assert torch.equal(space["reference_pred"], space["network"].base(*inputs))
    assert torch.equal(space["network"](*inputs), space["noise_pred"])  # switched on again
    rows = space["batch"]["scored"]
    weight = space["batch"]["loss_weights"].double()
    other = masked(space, space["reference_pred"])

    def truth(prediction: Tensor) -> Tensor:
        difference = omega(space) * (masked(space, prediction) - other)
        losses = weight * plain_loss(difference, space["batch"]["scores"].nan_to_num())
        return losses[rows].mean()

    assert_same(space["loss"], space["noise_pred"], truth)
    gradient(space)
    (slope,) = torch.autograd.grad(space["loss"], space["noise_pred"], retain_graph=True)
    assert not slope[~rows].any()


def test_fine_tuning_on_all_is_its_loss(space: dict[str, Any]) -> None:
    scores = torch.ones(6, dtype=torch.bool)
    loss = sft_loss(
        space["noise_pred"],
        space["target"],
        scores,
        0.5,
        mask=space["mask_image"],
        mask_mean="elements",
        sample_weight=space["batch"]["loss_weights"],
        timestep_weight=omega(space),
    )
    there = before(space)
    torch.testing.assert_close(loss, there)
    slopes = [
        torch.autograd.grad(value, space["noise_pred"], retain_graph=True)[0]
        for value in (loss, there)
    ]
    torch.testing.assert_close(*slopes)


def test_regularisation_images_are_the_positives_of_their_own_loss(space: dict[str, Any]) -> None:
    regular = ~space["batch"]["scored"]
    weight = space["batch"]["loss_weights"]
    loss = sft_loss(space["noise_pred"], space["target"], regular, 0.5, sample_weight=weight)
    squares = (space["noise_pred"] - space["target"]).square().mean((1, 2, 3))
    torch.testing.assert_close(loss, (0.7 * squares[regular]).mean())


def test_a_weighting_of_sd3_keeps_its_shape(space: dict[str, Any]) -> None:
    weighting = torch.rand(6, 1, 1, 1)
    inputs = space["noise_pred"], space["target"], torch.ones(6), 0.5
    loss = sft_loss(*inputs, timestep_weight=weighting)
    square = (space["noise_pred"] - space["target"]).square()
    torch.testing.assert_close(loss, (square * weighting).mean((1, 2, 3)).mean())
