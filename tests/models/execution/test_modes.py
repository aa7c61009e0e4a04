from __future__ import annotations

from pathlib import Path

import torch

from tests.models.helpers import example, perturb
from tglo import models
from tglo.models.execution.checkpointing import set_mode
from tglo.models.execution.modes import frozen_copy, set_channels_last


def test_a_copy_is_frozen_and_apart(family: models.Family) -> None:
    set_mode(family.denoiser, "full")
    family.denoiser.train()
    example_input = example(family)
    reference = frozen_copy(family.denoiser)
    before = family.predict(reference, example_input)
    assert torch.equal(before, family.predict(family.denoiser, example_input))
    assert not reference.training and not reference.is_gradient_checkpointing
    assert not any(p.requires_grad for p in reference.parameters())
    perturb(family.denoiser)
    assert torch.equal(before, family.predict(reference, example_input))
    assert not torch.equal(before, family.predict(family.denoiser, example_input))


def test_channels_last_gives_the_same_prediction(family: models.Family, tmp_path: Path) -> None:
    example_input = example(family)
    expected = family.predict(family.denoiser, example_input)
    set_channels_last(family.denoiser)
    weight = family.denoiser.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(family.predict(family.denoiser, example_input), expected)
    exported = models.load(family.save(tmp_path / "exported"))
    assert torch.equal(exported.denoiser.conv_in.weight, weight)
    other = models.load(family.path).denoiser
    for when in ("off", "auto"):  # auto: on a GPU
        set_channels_last(other, when)
        assert other.conv_in.weight.is_contiguous()
