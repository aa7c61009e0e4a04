"""Optimizers by name: what a checkpoint restores is the run that goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.train.test_loop import assert_same, final_weights, metrics
from tglo.files import DamagedFile
from tglo.train import TrainConfig, train
from tglo.train.config import OptimizerConfig
from tglo.train.contents import write
from tglo.train.engines.optimizers import (
    OPTIMIZERS,
    check_state,
    load_state,
    make_optimizer,
    state_files,
)
from tglo.train.engines.whole import Whole

Make = Callable[..., TrainConfig]
NAMES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name == "adamw8bit" and find_spec("bitsandbytes") is None,
            reason="needs bitsandbytes",
        ),
    )
    for name in OPTIMIZERS
]


def weights(layout: torch.memory_format = torch.contiguous_format) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    # Two are large enough for 8-bit states.
    shapes = {"conv": (64, 32, 3, 3), "linear": (96, 64), "bias": (96,)}
    found = {n: torch.randn(shape, generator=generator) for n, shape in shapes.items()}
    found["conv"] = found["conv"].contiguous(memory_format=layout)
    return {name: nn.Parameter(value) for name, value in found.items()}


def update(optimizer: torch.optim.Optimizer, trained: dict[str, nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in trained.values():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
    optimizer.step()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NAMES)
def test_state_comes_back_exactly(name: str, layout: torch.memory_format, tmp_path: Path) -> None:
    config = OptimizerConfig(name=name, learning_rate=1e-2, weight_decay=0.1)
    straight, parted = weights(layout), weights(layout)
    first = make_optimizer(config, straight.values())
    second = make_optimizer(config, parted.values())
    for step in range(3):
        update(first, straight, step)
        update(second, parted, step)
    write(state_files(second, parted), tmp_path)
    again = {name: nn.Parameter(p.detach().clone()) for name, p in parted.items()}
    third = make_optimizer(config, again.values())
    check_state(third, again, tmp_path)
    load_state(third, again, Whole(tmp_path).state)
    for step in range(3, 6):
        update(first, straight, step)
        update(third, again, step)
    assert all(torch.equal(straight[n], again[n]) for n in straight)


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_the_same_run(name: str, make_config: Make) -> None:
    options = {"optimizer": {"name": name, "steps": 4}, "model": {"train": "full"}}
    options |= {"engine": {"channels_last": "on"}}
    straight = make_config(folder="straight", **options)
    train(straight)
    parted = make_config(folder="parted", **options, output={"save_every": 2})
    train(parted)
    for file in (parted.output.folder / "checkpoints" / "step-00000004").rglob("*.safetensors"):
        file.unlink()
    train(parted)
    left, right = (final_weights(c.output.folder) for c in (straight, parted))
    if name == "adamw8bit":  # on the CPU it is compiled anew, for the step that comes first
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
        return
    assert_same(left, right)
    losses = [[x["loss"] for x in metrics(c.output.folder)] for c in (straight, parted)]
    assert losses[0] == losses[1] and losses[0][0] != losses[0][-1]


def test_fused_adamw_is_adamw() -> None:
    config = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)
    fused, plain = weights(), weights()
    first = make_optimizer(config, fused.values())
    second = torch.optim.AdamW(plain.values(), lr=1e-2, weight_decay=0.1, fused=False)
    for step in range(5):
        update(first, fused, step)
        update(second, plain, step)
    torch.testing.assert_close(list(fused.values()), list(plain.values()))


def test_another_optimizers_state_is_refused(tmp_path: Path) -> None:
    trained = weights()
    first = make_optimizer(OptimizerConfig(), trained.values())
    update(first, trained, 0)
    write(state_files(first, trained), tmp_path)
    other = make_optimizer(OptimizerConfig(name="adafactor"), trained.values())
    with pytest.raises(
        DamagedFile, match="optimizer.safetensors .*lacks bias/variance, .* bias/exp_avg"
    ):
        check_state(other, trained, tmp_path)


def test_a_missing_bitsandbytes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[bnb\]"'):
        make_optimizer(OptimizerConfig(name="adamw8bit"), weights().values())
