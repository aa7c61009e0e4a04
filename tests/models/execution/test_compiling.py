"""A compiled denoiser is the same denoiser: predictions, gradients, names, with its LoRA off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from tests.models.execution.conftest import FLOW, uneven
from tests.models.helpers import example, perturb
from tglo import models
from tglo.models import lora
from tglo.models.execution import attention, compiling
from tglo.models.execution.checkpointing import set_mode
from tglo.noise.draw import Draw


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs and guards as for real, without the minutes that code for the CPU takes."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(recompile_limit=8):
        yield
    torch._dynamo.reset()


def results(family: models.Family) -> list[torch.Tensor]:
    """The reference's and the policy's prediction, and the policy's gradients, twice."""
    found = []
    inputs = example(family)
    for _ in range(2):
        with torch.no_grad(), lora.adapters_off(family.denoiser):
            found.append(family.predict(family.denoiser, inputs))
        family.denoiser.zero_grad()
        prediction = family.predict(family.denoiser, inputs)
        prediction.square().mean().backward()
        found.append(prediction.detach())
        found += [parameter.grad.clone() for parameter in lora.parameters(family.denoiser)]
    return found


@pytest.mark.parametrize(
    ("how", "mode"), [("blocks", "none"), ("blocks", "full"), ("whole", "full")]
)
def test_lora_on_and_off_with_checkpointing(
    how: str, mode: str, load: Callable[..., models.Family]
) -> None:
    family = load("sd15")
    family.add_lora(2, 4.0)
    perturb(family.denoiser)
    family.denoiser.train()
    attention.set_backend(family.denoiser, "sdpa")
    set_mode(family.denoiser, mode)
    expected, names = results(family), list(family.denoiser.state_dict())
    compiling.compile_denoiser(family.denoiser, how)
    torch.testing.assert_close(results(family), expected)
    assert counters["stats"]["unique_graphs"] >= 2 and not counters["graph_break"]
    assert list(family.denoiser.state_dict()) == names
    with torch.compiler.set_stance("fail_on_recompile"):  # nothing was left uncompiled
        results(family)


def test_what_cannot_be_compiled_is_refused(load: Callable[..., models.Family]) -> None:
    family = load("sd15")
    with pytest.raises(ValueError, match="CUDA graphs need compile = whole and a CUDA device"):
        compiling.compile_denoiser(family.denoiser, "whole", cuda_graphs=True)
    with pytest.raises(ValueError, match="AutoencoderKL names no repeated blocks.*whole"):
        compiling.compile_denoiser(family.vae, "blocks")


@pytest.mark.parametrize("kind", [kind for kind in FLOW if kind != "sd3"])
def test_blocks_of_flow_families_at_any_size(
    kind: str, flow_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a LoRA and checkpointing: no break, and nothing left to compile after two sizes that share no length."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    family = models.load(flow_folders[kind], encoders=False)
    family.add_lora(2, 4.0)
    perturb(family.denoiser)
    family.denoiser.train()
    attention.set_backend(family.denoiser, "sdpa")
    set_mode(family.denoiser, "full")
    sizes = [(32, 64, 16, 9), (64, 48, 40, 25), (48, 64, 48, 33)]
    draws = [uneven(family, *size) for size in sizes]
    expected = [results_of(family, draw) for draw in draws]
    compiling.compile_denoiser(family.denoiser, "blocks")
    for draw, wanted in zip(draws[:2], expected[:2], strict=True):
        assert all(map(torch.equal, results_of(family, draw), wanted))
    assert 2 <= counters["stats"]["unique_graphs"] <= 12 and not counters["graph_break"]
    with torch.compiler.set_stance("fail_on_recompile"):
        assert all(map(torch.equal, results_of(family, draws[2]), expected[2]))


def results_of(family: models.Family, draw: Draw) -> list[torch.Tensor]:
    """The reference's and the policy's prediction, and the policy's gradients."""
    with torch.no_grad(), lora.adapters_off(family.denoiser):
        reference = family.predict(family.denoiser, draw)
    family.denoiser.zero_grad()
    policy = family.predict(family.denoiser, draw)
    policy.square().mean().backward()
    gradients = [parameter.grad.clone() for parameter in lora.parameters(family.denoiser)]
    return [reference, policy.detach(), *gradients]


@pytest.mark.parametrize("kind", [kind for kind in FLOW if kind != "sd3"])
def test_graphs_do_not_grow_with_the_number_of_blocks(
    kind: str, flow_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    family = models.load(flow_folders[kind], encoders=False)
    config, graphs = dict(family.denoiser.config), []
    for count in (3, 5):
        for name in {"num_layers", "num_single_layers", "n_layers"} & config.keys():
            config[name] = count
        family.denoiser = type(family.denoiser).from_config(config)
        torch._dynamo.reset()
        counters.clear()
        compiling.compile_denoiser(family.denoiser, "blocks")
        with torch.no_grad():
            family.predict(family.denoiser, uneven(family))
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] > 0
