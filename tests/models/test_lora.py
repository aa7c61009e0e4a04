from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.models.helpers import example, perturb
from tglo import models
from tglo.models import lora


def test_lora_starts_as_the_base_model_and_alone_is_trained(family: models.Family) -> None:
    example_input = example(family)
    base = family.predict(family.denoiser, example_input)
    before = {name: p.clone() for name, p in family.denoiser.named_parameters()}
    family.add_lora(2, 4.0)
    assert torch.equal(family.predict(family.denoiser, example_input), base)
    trained = [p for p in family.denoiser.parameters() if p.requires_grad]
    assert len(trained) == len(lora.parameters(family.denoiser)) > 0
    assert all(a is b for a, b in zip(trained, lora.parameters(family.denoiser), strict=True))
    optimizer = torch.optim.SGD(trained, lr=10.0)
    for _ in range(2):  # B is zero at first, so A moves from the second step on
        optimizer.zero_grad()
        family.predict(family.denoiser, example_input).square().mean().backward()
        optimizer.step()
    assert not torch.equal(family.predict(family.denoiser, example_input), base)
    after = {n.replace(".base_layer", ""): p for n, p in family.denoiser.named_parameters()}
    assert all(torch.equal(after[name], p) for name, p in before.items())
    assert all(p.grad is not None and p.grad.any() for p in lora.parameters(family.denoiser))


def test_adapters_off_is_the_base_model_also_behind_a_wrapper(family: models.Family) -> None:
    example_input = example(family)
    base = family.predict(family.denoiser, example_input)
    family.add_lora(2, 2.0, targets=["to_q", "conv1"])
    perturb(family.denoiser)
    wrapper = nn.DataParallel(family.denoiser)
    trained = family.predict(wrapper, example_input)
    assert not torch.equal(trained, base)
    with lora.adapters_off(family.denoiser):
        assert torch.equal(family.predict(wrapper, example_input), base)
        with lora.adapters_off(family.denoiser):
            pass
        assert torch.equal(family.predict(wrapper, example_input), base)
    assert torch.equal(family.predict(wrapper, example_input), trained)
    with pytest.raises(KeyError), lora.adapters_off(family.denoiser):
        raise KeyError
    assert torch.equal(family.predict(wrapper, example_input), trained)
    assert all(p.requires_grad for p in lora.parameters(family.denoiser))


def test_gradients_pass_a_reference_forward_between(load: Callable[..., models.Family]) -> None:
    family = load("sd15")
    family.add_lora(2, 2.0)
    perturb(family.denoiser)
    example_input = example(family)
    gradients = []
    for reference_between in (False, True):
        family.denoiser.zero_grad()
        prediction = family.predict(family.denoiser, example_input)
        if reference_between:
            with lora.adapters_off(family.denoiser), torch.no_grad():
                family.predict(family.denoiser, example_input)
        prediction.square().mean().backward()
        gradients.append([p.grad.clone() for p in lora.parameters(family.denoiser)])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_initial_weights_come_from_the_seed_only(load: Callable[..., models.Family]) -> None:
    weights = []
    for global_seed, seed in ((0, 7), (1, 7), (1, 8)):
        family = load("sd15")
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        family.add_lora(2, 2.0, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        weights.append(torch.cat([p.flatten() for p in lora.parameters(family.denoiser)]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


def test_weights_are_float32_on_a_half_precision_base(load: Callable[..., models.Family]) -> None:
    family = load("sdxl", dtype=torch.bfloat16)
    family.add_lora(2, 2.0)
    assert {p.dtype for p in lora.parameters(family.denoiser)} == {torch.float32}
    assert family.dtype == torch.bfloat16
    prediction = family.predict(family.denoiser, example(family))
    assert prediction.dtype == torch.bfloat16 and prediction.isfinite().all()


def test_state_dict_goes_back_and_forth(load: Callable[..., models.Family]) -> None:
    family, other = load("sd15"), load("sd15")
    family.add_lora(2, 2.0)
    other.add_lora(2, 2.0)
    perturb(family.denoiser)
    example_input = example(family)
    weights = lora.state_dict(family.denoiser)
    assert len(weights) == len(lora.parameters(family.denoiser))
    gathered = {f"{name}": p for name, p in family.denoiser.named_parameters()}
    for form in (gathered, weights):
        again = lora.state_dict(family.denoiser, form)
        assert set(again) == set(weights)
        assert all(torch.equal(again[name], weights[name]) for name in weights)
    lora.load_state_dict(other.denoiser, weights)
    assert torch.equal(
        other.predict(other.denoiser, example_input),
        family.predict(family.denoiser, example_input),
    )
    weights.popitem()
    with pytest.raises(ValueError, match="1 LoRA weights do not match"):
        lora.load_state_dict(other.denoiser, weights)
    with pytest.raises(ValueError, match="no LoRA weights"):
        lora.state_dict(other.denoiser, {"conv_in.weight": torch.zeros(1)})


def test_bad_lora_settings_are_named(load: Callable[..., models.Family]) -> None:
    family = load("sd15")
    for settings, message in (
        ({"rank": 0, "alpha": 1.0}, "rank 0"),
        ({"rank": 4, "alpha": 0.0}, "alpha 0"),
        ({"rank": 4, "alpha": 4.0, "dropout": 1.0}, "dropout"),
        ({"rank": 4, "alpha": 4.0, "targets": ["nowhere"]}, "nowhere"),
    ):
        with pytest.raises(ValueError, match=message):
            load("sd15").add_lora(**settings)
    with (
        pytest.raises(ValueError, match="no LoRA to switch off"),
        lora.adapters_off(family.denoiser),
    ):
        pass
    family.add_lora(1, 1.0)
    with pytest.raises(ValueError, match="already has a LoRA"):
        family.add_lora(1, 1.0)
