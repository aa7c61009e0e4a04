"""What a run goes on from, and what it refuses to go on from."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.train.test_checkpoint_manifest import change_state, reseal
from tests.train.test_loop import assert_same, final_weights, metrics
from tglo.cache.make import build
from tglo.train import TrainConfig, train
from tglo.train.checkpoint import newest
from tglo.train.loop import export_run

Make = Callable[..., TrainConfig]


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


def change_manifest(
    config: TrainConfig, folder: Path, change: Callable[[list[list[str]]], list[list[str]]]
) -> TrainConfig:
    """The run with another manifest, beside its images; `change` gets the rows."""
    shutil.copytree(config.data.manifest.parent, folder, dirs_exist_ok=True)
    path = folder / "scored.csv"
    header, *rows = csv.reader(path.open())
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *change(rows)])
    return replace(config, data=replace(config.data, manifest=path))


CHANGES: dict[str, tuple[Callable[[list[list[str]]], list[list[str]]], str]] = {
    "negated": (
        lambda rows: [[p, i, str(-float(s))] for p, i, s in rows],
        r"the scores, the threshold \(0\.\d+ then, -0\.\d+ now\)",
    ),
    "fewer": (lambda rows: rows[:-2], r"the manifest's rows \(12 then, 10 now\), the threshold"),
    "order": (lambda rows: rows[::-1], r"the order of the manifest's rows\."),
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_rows_are_named_and_refused(name: str, make_config: Make, tmp_path: Path) -> None:
    """Fault 37."""
    change, words = CHANGES[name]
    config = make_config()
    train(config)
    before = final_weights(config.output.folder)
    other = more(change_manifest(config, tmp_path / "other", change), steps=6)
    with pytest.raises(ValueError, match=f"has changed since .*step-00000004: .*{words}.*accept-"):
        train(other)
    assert_same(final_weights(config.output.folder), before)
    assert train(more(other, steps=6, accept_changes=True)).steps == 6
    assert train(more(other, steps=7)).steps == 7  # it was accepted, and is the run's own now


def test_a_cache_of_other_images_and_another_threshold_are_refused(
    make_config: Make, sd15: Path, manifest: Path, tmp_path: Path
) -> None:
    """Fault 37."""
    config = make_config()
    train(config)
    images = Path(shutil.copytree(manifest.parent, tmp_path / "images"))
    shutil.copy(images / "3.png", images / "0.png")
    build(str(sd15), images / "scored.csv", tmp_path / "cache", resolution=16, device="cpu")
    other = replace(config, data=replace(config.data, cache=tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"step-00000004: the cached latents\. Go back"):
        train(more(other, steps=6))
    other = replace(config, data=replace(config.data, percentile=75.0))
    with pytest.raises(ValueError, match=r"step-00000004: the threshold \(0.* now\)\. Go back"):
        train(more(other, steps=6))
    exported = tmp_path / "exported"
    text = json.loads((config.output.folder / "config.json").read_text())
    text["data"]["percentile"] = 75.0
    (config.output.folder / "config.json").write_text(json.dumps(text))
    assert export_run(config.output.folder, exported).is_dir()  # data do not matter there


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


def test_a_run_that_begins_anew_keeps_both(
    make_config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault 33: fewer steps than the run before, and nothing of that is exported as the new one's."""
    first = make_config(optimizer={"steps": 6}, output={"save_every": 3})
    train(first)
    folder, old = first.output.folder, final_weights(first.output.folder)
    old_lines = metrics(folder)
    anew = replace(
        make_config(optimizer={"steps": 3, "learning_rate": 1e-4}),
        output=replace(first.output, resume=False, keep=1),
    )
    train(anew)
    aside = folder / "earlier-1"
    assert caplog.text.count(f"the earlier run was moved to {aside}") == 1
    new = final_weights(folder)
    assert last(anew).name == "step-00000003" and any(not old[n].equal(new[n]) for n in old)
    assert (folder / "checkpoints" / "latest").read_text().strip() == "step-00000003"
    assert_same(final_weights(aside), old)
    assert metrics(aside) == old_lines and len(metrics(folder)) == 3
    assert train(more(anew, steps=4, resume=True)).steps == 4  # goes on from the new one
    assert last(anew).name == "step-00000004"

    export_run(aside, tmp_path / "exported")
    name = "pytorch_lora_weights.safetensors"
    assert_same(load_file(tmp_path / "exported" / name), load_file(aside / "export" / name))
    train(more(anew, steps=3))
    assert (folder / "earlier-2" / "checkpoints" / "step-00000004").is_dir()
    assert len(list((aside / "checkpoints").glob("step-*"))) == 2  # not pruned


def test_an_empty_folder_of_a_high_number_is_no_checkpoint(make_config: Make) -> None:
    config = make_config(output={"keep": 1})
    (config.output.folder / "checkpoints" / "step-00000099").mkdir(parents=True)
    assert train(config).steps == 4
    assert last(config).name == "step-00000004"


def test_another_batch_size_goes_on_with_the_next_epoch(
    make_config: Make, caplog: pytest.LogCaptureFixture
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
    assert "going on with the first sample of epoch 2" in caplog.text
    caplog.clear()
    train(more(smaller, steps=7))  # and a further resume stays there
    more_epochs = [line["epoch"] for line in metrics(config.output.folder)]
    step = epochs[-1] - 2
    assert more_epochs[4:] == pytest.approx([2 + step, 2 + 2 * step, 2 + 3 * step])
    assert "going on with the first sample" not in caplog.text


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
