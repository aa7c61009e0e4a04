"""A compiled denoiser is the same denoiser: predictions, gradients, names, with its LoRA off."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch._dynamo.utils import counters

from tests.models.helpers import example, perturb
from tglo import models
from tglo.models import lora
from tglo.models.execution import attention, compiling
from tglo.models.execution.checkpointing import set_mode


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
