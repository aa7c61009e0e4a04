"""The switches for speed and memory change no result of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from tests.train.test_loop import final_weights, metrics
from tglo.models.execution import compiling
from tglo.train import TrainConfig, train

Make = Callable[..., TrainConfig]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in metrics(folder)]


@pytest.mark.parametrize(
    ("section", "options"),
    [
        ("model", {"attention": "sdpa"}),
        ("model", {"gradient_checkpointing": "selective"}),
        ("model", {"gradient_checkpointing": "full"}),
        ("engine", {"channels_last": "on"}),
    ],
)
@pytest.mark.parametrize("what", ["lora", "full"])
def test_the_losses_are_the_same(
    what: str, section: str, options: dict[str, str], make_config: Make
) -> None:
    plain = train(make_config(folder="plain", model={"train": what}))
    sections = {"model": {"train": what}, "engine": {}}
    sections[section] = sections[section] | options
    other = train(make_config(folder="other", **sections))
    assert losses(other.folder) == pytest.approx(losses(plain.folder), rel=2e-4)
    assert other.export is not None


def test_a_compiled_run_resumes_and_exports(
    make_config: Make,
    square_cache: Path,
    sd15: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LoRA with the adapter-off reference, checkpointing, validation, resume: blocks compiled."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    counters.clear()
    shared = {
        "model": {"gradient_checkpointing": "full", "attention": "sdpa"},
        "data": {"cache": str(square_cache)},
        "optimizer": {"learning_rate": 1e-2},
        "output": {
            "save_every": 2,
            "validation_prompts": ["a flower"],
            "validation_every": 3,
            "validation_steps": 1,
        },
    }
    plain = train(make_config(folder="plain", **shared))
    config = make_config(folder="compiled", engine={"compile": "blocks"}, **shared)
    compiled = train(config)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs >= 2  # the policy's, and with its LoRA off the reference's
    assert losses(compiled.folder) == pytest.approx(losses(plain.folder), rel=1e-4)
    whole, weights = final_weights(plain.folder), final_weights(compiled.folder)
    assert whole.keys() == weights.keys()
    for file in (compiled.folder / "checkpoints" / "step-00000004").rglob("*.safetensors"):
        file.unlink()
    again = train(config)
    assert all(torch.equal(weights[n], p) for n, p in final_weights(again.folder).items())
    assert plain.export is not None and again.export is not None
    left, right = (
        load_file(export / "pytorch_lora_weights.safetensors")
        for export in (plain.export, again.export)
    )
    assert left.keys() == right.keys()
    torch._dynamo.reset()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs_give_the_same_losses(make_config: Make) -> None:
    found = []
    for engine in ({}, {"compile": "whole", "cuda_graphs": True}):
        config = make_config(
            folder=f"{len(engine)}",
            engine={"device": "cuda", **engine},
            optimizer={"steps": 8},
        )
        found.append(losses(train(config).folder))
    assert found[0] == pytest.approx(found[1], rel=1e-3)
