"""diffusers' text_to_image scripts, where the reference comes from in them, and errors that are not mean squares."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.drop_in.miniature import (
    Adapted,
    Denoiser,
    assert_same,
    gradient,
    make_step,
    plain_loss,
    run,
    squares,
)
from tglo import sft_loss, tgo_loss, tgo_loss_from_log_probs

GAMMA = 5.0


@pytest.fixture
def space() -> dict[str, Any]:
    torch.manual_seed(4)
    names = make_step(torch.randn(4, 4, 8, 8))
    share = names["timesteps"].double() / 1000
    snr = (1 - share) / share
    return names | {"mse_loss_weights": (snr.clamp(max=GAMMA) / snr).float()}  # min-SNR


def before(space: dict[str, Any], min_snr: bool = True) -> Tensor:
    """The script's loss."""
    loss = functional.mse_loss(space["model_pred"], space["target"], reduction="none").flatten(1)
    return (loss.mean(1) * (space["mse_loss_weights"] if min_snr else 1)).mean()


def test_the_call_is_the_formula(space: dict[str, Any]) -> None:
    run("text-to-image-after", space)
    other, omega = squares(space["ref_preds"], space["target"]), space["mse_loss_weights"]
    assert omega.min() < 0.9

    def truth(prediction: Tensor) -> Tensor:
        difference = omega.double() * (squares(prediction, space["target"]) - other)
        return plain_loss(difference, space["batch"]["scores"]).mean()

    assert_same(space["loss"], space["model_pred"], truth)
    gradient(space)


@pytest.mark.parametrize("min_snr", [False, True])
def test_the_baseline_is_the_scripts_loss_where_all_are_positive(
    min_snr: bool, space: dict[str, Any]
) -> None:
    inputs = space["model_pred"], space["target"], space["batch"]["scores"], 0.0
    omega = space["mse_loss_weights"] if min_snr else None
    loss = sft_loss(*inputs, timestep_weight=omega)
    there = before(space, min_snr)
    torch.testing.assert_close(loss, there)
    slopes = [
        torch.autograd.grad(value, space["model_pred"], retain_graph=True)[0]
        for value in (loss, there)
    ]
    torch.testing.assert_close(*slopes)


def test_a_frozen_copy_starts_at_ratio_zero_and_stays(space: dict[str, Any]) -> None:
    reference = run("frozen", space)["reference"]
    inputs = space["noisy_latents"], space["timesteps"], space["text"]
    arguments = space["target"], space["batch"]["scores"], 0.5
    prediction = space["unet"](*inputs)
    known = reference(*inputs)
    assert not known.requires_grad and not reference.training
    loss, stats = tgo_loss(prediction, *arguments, reference_pred=known, return_stats=True)
    assert stats.implicit_score.tolist() == [0.0] * 4
    loss.backward()
    torch.optim.SGD(space["unet"].parameters(), lr=1e-3).step()
    assert torch.equal(reference(*inputs), known)
    assert not torch.equal(space["unet"](*inputs), prediction)


def test_an_adapter_switched_off_is_the_base(space: dict[str, Any]) -> None:
    base = Denoiser()
    expected = copy.deepcopy(base)(space["noisy_latents"], space["timesteps"], space["text"])
    space["policy"] = space["unet"] = Adapted(base)
    run("adapter-off", space)
    assert torch.equal(space["ref_preds"], expected)
    assert not torch.equal(space["model_pred"], expected)
    space["loss"] = tgo_loss(
        space["model_pred"],
        space["target"],
        space["batch"]["scores"],
        0.5,
        reference_pred=space["ref_preds"],
    )
    gradient(space)
    again = space["unet"](space["noisy_latents"], space["timesteps"], space["text"])
    assert torch.equal(again, space["model_pred"])  # switched on again


def test_a_huber_loss_is_an_error_of_ones_own(space: dict[str, Any]) -> None:
    names = run("huber", space | {"huber_c": 0.1, "temperature": 1e-2})

    def errors(prediction: Tensor) -> Tensor:
        difference = prediction.double() - space["target"].double()
        return (2 * 0.1 * ((difference**2 + 0.1**2).sqrt() - 0.1)).mean((1, 2, 3))

    other = errors(space["ref_preds"])

    def truth(prediction: Tensor) -> Tensor:
        difference = errors(prediction) - other
        return plain_loss(difference, space["batch"]["scores"], temperature=1e-2).mean()

    assert_same(names["loss"], space["model_pred"], truth, rtol=1e-3)
    gradient(names)
    error = names["stats"].policy_error * 1e-2
    torch.testing.assert_close(error.float(), errors(space["model_pred"]).detach().float())


def test_mean_squares_as_an_error_of_ones_own_are_the_kernels_loss(space: dict[str, Any]) -> None:
    scores = space["batch"]["scores"]
    inputs = space["model_pred"], space["target"]
    options: dict[str, Any] = {"return_stats": True}
    loss, _ = tgo_loss(*inputs, scores, 0.5, reference_pred=space["ref_preds"], **options)
    log_probs = (
        -squares(space[name], space["target"]) / 1e-3 for name in ("model_pred", "ref_preds")
    )
    own, _ = tgo_loss_from_log_probs(*log_probs, scores, 0.5, **options)
    torch.testing.assert_close(own.float(), loss)
