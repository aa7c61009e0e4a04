"""What a run resumes from, and what it refuses to resume from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.train.conftest import without_export
from tests.train.test_checkpoint_manifest import change_state, reseal
from tests.train.test_loop import assert_same, final_weights, metrics
from tglo.train import TrainConfig, train
from tglo.train.checkpoint import newest
from tglo.train.finished_run import export_run

Make = Callable[..., TrainConfig]


@pytest.fixture
def make_config(make_config: Make) -> Make:
    return without_export(make_config)


def last(config: TrainConfig) -> Path:
    found = newest(config.output.folder / "checkpoints")
    assert found is not None
    return found[0]


def more(config: TrainConfig, steps: int, **output: Any) -> TrainConfig:
    """The same run, with more steps."""
    return replace(
        config,
        optimizer=replace(config.optimizer, steps=steps),
        output=replace(config.output, **output),
    )


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"lora_rank": 8}}, r"model\.lora_rank = 16, this run has model\.lora_rank = 8"),
        ({"model": {"train": "full"}}, r"model\.train = lora, this run has model\.train = full"),
        ({"optimizer": {"name": "adafactor"}}, r"optimizer\.name = adamw, this run has"),
    ],
)
def test_another_setting_that_decides_the_weights_is_named(
    sections: dict[str, dict[str, Any]], words: str, make_config: Make
) -> None:
    train(make_config())
    with pytest.raises(ValueError, match=f"{words}.*Set .*--output.no-resume"):
        train(make_config(**sections))


def test_a_new_average_begins_with_the_weights(
    make_config: Make, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config()
    train(config)
    before = final_weights(config.output.folder)
    averaged = replace(config, optimizer=replace(config.optimizer, steps=5, ema_decay=0.5))
    caplog.set_level("INFO", "tglo")
    train(averaged)
    assert "has no moving average: it starts from the weights of now" in caplog.text
    after, average = (
        final_weights(config.output.folder),
        load_file(last(averaged) / "ema.safetensors"),
    )
    for name, weight in after.items():  # (1 + 4) / (10 + 4) is the cap of the decay
        torch.testing.assert_close(average[name], torch.lerp(before[name], weight, 1 - 5 / 14))


def test_what_an_earlier_version_wrote_goes_on_with_a_warning(
    make_config: Make, caplog: pytest.LogCaptureFixture
) -> None:
    straight = make_config(folder="straight", optimizer={"steps": 6, "schedule": "constant"})
    train(straight)
    config = make_config(optimizer={"schedule": "constant"})
    train(config)
    manifest = last(config) / "manifest.json"
    content = json.loads(manifest.read_text())
    for name in ("data", "order", "epoch", "shift", "noise_floor"):
        del content["state"][name]
    del content["sha256"]
    manifest.write_text(json.dumps(content))
    assert train(more(config, steps=6)).steps == 6
    assert caplog.text.count("its manifest has no checksum") == 1
    assert "does not say which data it was trained on" in caplog.text
    assert_same(final_weights(straight.output.folder), final_weights(config.output.folder))


def shorter(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:1].clone()


WRONG: dict[str, tuple[str, str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "weights that broadcast": ("model.safetensors", "conv_in.weight", shorter),
    "weights of another dtype": ("model.safetensors", "conv_in.bias", torch.Tensor.half),
    "a short optimizer state": ("optimizer.safetensors", "conv_in.weight/exp_avg", shorter),
    "a step of another dtype": ("optimizer.safetensors", "conv_in.bias/step", torch.Tensor.double),
    "a short average": ("ema.safetensors", "conv_in.weight", shorter),
    "a short reference": ("reference.safetensors", "conv_in.weight", shorter),
}


@pytest.fixture
def whole_run(make_config: Make) -> TrainConfig:
    """A finished run whose checkpoints have every part."""
    config = make_config(
        model={"train": "full"},
        objective={"update_reference_every_epoch": True},
        optimizer={"ema_decay": 0.5},
        output={"save_every": 2, "export": False},
    )
    train(config)
    return config


@pytest.mark.parametrize("wrong", [*WRONG, "a missing weight", "no scale", "no optimizer state"])
def test_what_does_not_fit_falls_back_though_its_checksums_are_right(
    wrong: str, whole_run: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault 36: nothing is copied from it, the older checkpoint leads to the same weights."""
    folder = last(whole_run)
    expected = final_weights(whole_run.output.folder)
    name = ""
    if wrong == "no scale":
        (folder / "scaler.json").write_text('{"scale": "high"}')
    elif wrong == "no optimizer state":
        tensors = load_file(folder / "optimizer.safetensors")
        del tensors["conv_in.weight/exp_avg_sq"]
        save_file(tensors, folder / "optimizer.safetensors")
    else:
        file, name, change = WRONG.get(wrong, ("model.safetensors", "conv_in.bias", shorter))
        tensors = load_file(folder / file)
        tensors[name] = change(tensors[name])
        if wrong == "a missing weight":
            del tensors[name]
        save_file(tensors, folder / file)
    reseal(folder)
    train(whole_run)
    assert f"ignoring checkpoint {folder}: " in caplog.text and name in caplog.text
    assert_same(final_weights(whole_run.output.folder), expected)


def test_a_state_that_says_another_step_falls_back(
    whole_run: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    change_state(last(whole_run), lambda state: state.update(step=3))
    assert train(whole_run).steps == 4
    assert "it says step 3" in caplog.text


def test_none_that_can_be_used_stops_before_anything_is_lost(whole_run: TrainConfig) -> None:
    checkpoints = whole_run.output.folder / "checkpoints"
    for folder in checkpoints.glob("step-*"):
        (folder / "model.safetensors").unlink()
    lines = metrics(whole_run.output.folder)
    with pytest.raises(
        ValueError, match=r"can be used \(model.safetensors is missing\).*no-resume"
    ):
        train(whole_run)
    assert len(list(checkpoints.glob("step-*"))) == 2
    assert metrics(whole_run.output.folder) == lines


def test_another_batch_size_goes_on_with_the_next_epoch(
    make_config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault 20: no draw is used twice, and the epoch does not jump."""
    config = make_config(optimizer={"micro_batch": 4})
    train(config)
    epochs = [line["epoch"] for line in metrics(config.output.folder)]
    assert 1 < epochs[-1] < 2
    smaller = replace(config, optimizer=replace(config.optimizer, micro_batch=2))
    train(more(smaller, steps=5))
    epochs = [line["epoch"] for line in metrics(config.output.folder)]
    assert 2 < epochs[-1] <= 2 + 1 / 3
    assert "resuming with the first sample of epoch 2" in caplog.text
    caplog.clear()
    train(more(smaller, steps=7))  # and a further resume stays there
    more_epochs = [line["epoch"] for line in metrics(config.output.folder)]
    step = epochs[-1] - 2
    assert more_epochs[4:] == pytest.approx([2 + step, 2 + 2 * step, 2 + 3 * step])
    file = config.output.folder / "config.json"  # one process exports what several trained
    file.write_text(file.read_text().replace('"micro_batch": 2', '"micro_batch": 4'))
    assert json.loads(file.read_text())["optimizer"]["micro_batch"] == 4
    export_run(config.output.folder, tmp_path / "exported")
    assert "resuming with the first sample" not in caplog.text


def test_the_same_global_batch_of_one_bucket_goes_on_where_it_was(
    make_config: Make, square_cache: Path
) -> None:
    options = {"data": {"cache": str(square_cache)}}
    optimizer = {"micro_batch": 4, "schedule": "constant"}
    straight = make_config(folder="straight", **options, optimizer=optimizer | {"steps": 5})
    train(straight)
    config = make_config(**options, optimizer=optimizer)
    train(config)
    halves = replace(config.optimizer, micro_batch=2, accumulation=2)
    train(more(replace(config, optimizer=halves), steps=5))
    left, right = (metrics(c.output.folder) for c in (straight, config))
    assert [x["epoch"] for x in left] == [x["epoch"] for x in right]
    assert [x["loss"] for x in left] == pytest.approx([x["loss"] for x in right], rel=1e-4)


def test_another_precision_goes_on(make_config: Make) -> None:
    """A checkpoint without a loss scale, for a run that has one."""
    config = make_config()
    train(config)
    half = replace(config, engine=replace(config.engine, precision="fp16"))
    assert train(more(half, steps=5)).steps == 5
