"""Gradient checkpointing: the same gradients from less memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.models.execution.conftest import uneven
from tests.models.helpers import example, perturb
from tglo import models
from tglo.models.execution.checkpointing import MODES, set_mode
from tglo.models.lora import parameters
from tglo.train.auto_checkpointing import trial


class Alive(TorchDispatchMode):
    """Remembers the storages that operators made, to tell which are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[weakref.ref[Any], int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self.made[storage._cdata] = (weakref.ref(storage), storage.nbytes())
        return result

    def total(self) -> int:
        return sum(size for storage, size in self.made.values() if storage() is not None)


@pytest.mark.parametrize("lora", [False, True])
def test_every_mode_gives_the_same_gradients(family: models.Family, lora: bool) -> None:
    if lora:
        family.add_lora(2, 4.0, dropout=0.3)
    perturb(family.denoiser)
    example_input = example(family)
    family.denoiser.train()
    results = []
    for mode in MODES:
        set_mode(family.denoiser, mode)
        assert family.denoiser.is_gradient_checkpointing == (mode != "none")
        family.denoiser.zero_grad()
        torch.manual_seed(4)  # dropout
        family.predict(family.denoiser, example_input).square().mean().backward()
        gradients = [p.grad for p in family.denoiser.parameters() if p.grad is not None]
        assert gradients
        results.append([gradient.clone() for gradient in gradients])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_each_mode_keeps_less_after_the_forward(load: Callable[..., models.Family]) -> None:
    family = load("sdxl")
    family.denoiser.train()
    example_input = example(family)
    kept = []
    for mode in MODES:
        set_mode(family.denoiser, mode)
        with Alive() as alive:
            loss = family.predict(family.denoiser, example_input).square().mean()
        kept.append(alive.total())
        loss.backward()
    none, selective, full = kept
    assert none > 1.2 * selective and selective > 1.2 * full, kept


def test_an_unknown_mode_is_refused(load: Callable[..., models.Family]) -> None:
    with pytest.raises(ValueError, match="'half' is not one of none, selective, full"):
        set_mode(load("sd15").denoiser, "half")


@pytest.mark.parametrize("frozen", [False, True])
def test_flow_families_keep_less_and_learn_the_same(frozen: bool, flow: models.Family) -> None:
    flow.add_lora(2, 4.0, dropout=0.3)
    perturb(flow.denoiser)
    flow.denoiser.requires_grad_(not frozen)
    for parameter in parameters(flow.denoiser):
        parameter.requires_grad_(True)
    flow.denoiser.train()
    draw, kept, results = uneven(flow), [], []
    for mode in MODES:
        set_mode(flow.denoiser, mode)
        flow.denoiser.zero_grad()
        torch.manual_seed(4)  # dropout
        with Alive() as alive:
            loss = flow.predict(flow.denoiser, draw).square().mean()
        kept.append(alive.total())
        loss.backward()
        results.append([p.grad.clone() for p in parameters(flow.denoiser)])
    assert kept[2] < min(kept[:2]), kept
    # Products with frozen weights need not be kept, and selective keeps them.
    assert frozen or kept[1] < kept[0], kept
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


def test_a_trial_step_of_a_flow_family_leaves_nothing_behind(flow: models.Family) -> None:
    """What gradient_checkpointing = "auto" measures."""
    flow.add_lora(2, 4.0, dropout=0.3)
    flow.denoiser.train()
    state = torch.get_rng_state()
    for mode in MODES:
        set_mode(flow.denoiser, mode)
        trial(flow, 2, (32, 64), torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in flow.denoiser.parameters())
