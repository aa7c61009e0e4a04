"""Gradient checkpointing by measurement, with a stand-in for a GPU's memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tglo import models
from tglo.models import lora
from tglo.models.execution.checkpointing import Mode
from tglo.train import TrainConfig, train
from tglo.train import auto_checkpointing as memory

Make = Callable[..., TrainConfig]
GIB = 2**30


@pytest.fixture
def family(sdxl: object) -> models.Family:
    family = models.load(f"path:{sdxl}")
    family.add_lora(2, 2.0, dropout=0.5)
    family.denoiser.train()
    return family


def test_a_trial_leaves_nothing_behind(family: models.Family) -> None:
    before = {name: p.detach().clone() for name, p in family.denoiser.named_parameters()}
    state = torch.get_rng_state()
    memory.trial(family, 2, (16, 24), torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), state)
    after = dict(family.denoiser.named_parameters())
    assert all(p.grad is None for p in after.values())
    assert all(torch.equal(after[name], p) for name, p in before.items())


@pytest.mark.parametrize(
    ("peaks", "compile", "expected", "said"),
    [
        ({"none": 10 * GIB}, "none", "none", "auto: none"),
        ({"none": None, "selective": 70 * GIB}, "none", "selective", "none: out of memory"),
        ({"none": 79 * GIB, "selective": 74 * GIB, "full": 9 * GIB}, "none", "full", "auto: full"),
        ({"none": None, "full": 9 * GIB}, "blocks", "full", "a peak of 9.0 GiB"),
        ({"none": None, "selective": None, "full": None}, "none", "full", "lower .*micro_batch"),
    ],
)
def test_the_first_mode_that_fits_is_taken(
    peaks: dict[str, int | None],
    compile: str,
    expected: str,
    said: str,
    family: models.Family,
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    modes: list[str] = []
    set_mode = memory.set_mode
    seen = SimpleNamespace(size=None)

    def watch(denoiser: Any, mode: Mode) -> None:
        modes.append(mode)
        set_mode(denoiser, mode)

    def peak(config: TrainConfig, family: models.Family, size: tuple[int, int]) -> int | None:
        seen.size = size
        return peaks[modes[-1]]

    monkeypatch.setattr(memory, "set_mode", watch)
    monkeypatch.setattr(memory, "_peak", peak)
    monkeypatch.setattr(family, "device", SimpleNamespace(type="cuda"))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * GIB)
    )
    config = make_config(
        model={"gradient_checkpointing": "auto"}, engine={"compile": compile, "precision": "bf16"}
    )
    with caplog.at_level(logging.INFO, "tglo"):
        memory.set_checkpointing(config, family, [(16, 16), (16, 24), (20, 16)])
    assert modes == list(peaks) and modes[-1] == expected and seen.size == (16, 24)
    assert said.split(" .*")[0] in caplog.text


def test_what_a_step_adds_counts(family: models.Family, make_config: Make) -> None:
    trained = sum(p.numel() for p in lora.parameters(family.denoiser))
    for options, bytes_each in (
        ({}, 8),
        ({"name": "adamw8bit"}, 2),
        ({"ema_decay": 0.9}, 12),
    ):
        assert memory._later_bytes(make_config(optimizer=options), family) == bytes_each * trained


def test_auto_is_none_on_the_cpu_and_trains(
    make_config: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tglo"):
        assert train(make_config(model={"gradient_checkpointing": "auto"})).finished
    assert "gradient checkpointing auto: none on cpu" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_measured(make_config: Make, caplog: pytest.LogCaptureFixture) -> None:
    config = make_config(model={"gradient_checkpointing": "auto"}, engine={"device": "cuda"})
    with caplog.at_level(logging.INFO, "tglo"):
        assert train(config).finished
    assert "a peak of" in caplog.text and "gradient checkpointing auto: none" in caplog.text
