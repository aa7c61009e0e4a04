"""Training in one process, on tiny models of the true architecture and real image files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from tglo.train import TrainConfig, train
from tglo.train import export as exporting
from tglo.train.checkpoint import newest
from tglo.train.run import Run

Make = Callable[..., TrainConfig]


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    found = newest(folder / "checkpoints")
    assert found is not None
    return load_file(found[0] / "model.safetensors")


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


def sample(folder: Path, lora: Path | None = None) -> np.ndarray:
    """One image of a plain diffusers pipeline, without tglo."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(lora)
    generator = torch.Generator().manual_seed(0)
    result = pipeline("a flower", num_inference_steps=2, generator=generator, output_type="np")
    return result.images[0]


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
@pytest.mark.parametrize("what", ["full", "lora"])
def test_trains_and_exports(
    model: str, what: str, make_config: Make, request: pytest.FixtureRequest
) -> None:
    base: Path = request.getfixturevalue(model)
    config = make_config(base, model={"train": what}, optimizer={"learning_rate": 1e-2})
    result = train(config)
    lines = metrics(result.folder)
    assert result.finished and result.steps == len(lines) == 4
    # Policy and reference are equal before the first update, so the log-ratio is exactly 0.
    assert lines[0]["r_positive"] == lines[0]["r_negative"] == 0.0
    assert lines[-1]["policy_error"] != lines[-1]["reference_error"]
    assert all(np.isfinite(list(line.values())).all() for line in lines)

    assert result.export is not None
    before = sample(base)
    if what == "lora":
        after = sample(base, lora=result.export)
    else:
        after = sample(result.export)
    assert np.abs(after - before).max() > 1e-3


def test_a_resumed_run_is_the_same_run(make_config: Make) -> None:
    options = {"objective": {"temperature": "auto"}, "model": {"train": "full"}}
    optimizer = {"steps": 6, "ema_decay": 0.9}
    straight = make_config(folder="straight", **options, optimizer=optimizer)
    train(straight)
    parted = make_config(folder="parted", **options, optimizer=optimizer, output={"save_every": 2})
    # Take away what came after step 4, as if the process had been killed in step 5.
    train(parted)
    checkpoints = parted.output.folder / "checkpoints"
    for file in (checkpoints / "step-00000006").rglob("*.safetensors"):
        file.unlink()
    train(parted)
    assert_same(final_weights(straight.output.folder), final_weights(parted.output.folder))
    left, right = metrics(straight.output.folder), metrics(parted.output.folder)
    assert [x["loss"] for x in left] == [x["loss"] for x in right]
    assert [x["temperature"] for x in left] == [x["temperature"] for x in right]


def test_accumulation_equals_a_larger_micro_batch(make_config: Make, square_cache: Path) -> None:
    # One bucket only: then the rows of a step depend on the global batch alone.
    losses = []
    for micro, accumulation in ((4, 1), (2, 2)):
        config = make_config(
            folder=f"{micro}",
            model={"train": "full"},
            optimizer={"micro_batch": micro, "accumulation": accumulation},
            data={"cache": str(square_cache), "caption_dropout": 0.5},
        )
        train(config)
        losses.append([line["loss"] for line in metrics(config.output.folder)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_sft_needs_no_reference_and_learns_from_positives(make_config: Make) -> None:
    config = make_config(objective={"name": "sft"}, model={"train": "full"})
    result = train(config)
    assert result.finished and metrics(result.folder)[-1]["loss"] > 0


def test_reference_is_renewed_at_an_epochs_end(make_config: Make) -> None:
    config = make_config(
        model={"train": "full"},
        objective={"update_reference_every_epoch": True},
        optimizer={"steps": 7, "micro_batch": 4},
        data={"caption_dropout": 0.0},
    )
    lines = metrics(train(config).folder)
    per_epoch = round(1 / lines[0]["epoch"])
    assert per_epoch < 6
    first_of_epoch = lines[per_epoch]
    assert first_of_epoch["r_positive"] == first_of_epoch["r_negative"] == 0.0
    assert lines[per_epoch - 1]["r_positive"] != 0.0


def test_lora_with_a_copied_reference_gives_the_same_losses(make_config: Make) -> None:
    results = []
    for mode in ("adapter-off", "copy"):
        config = make_config(folder=mode, objective={"reference": mode})
        train(config)
        results.append([line["loss"] for line in metrics(config.output.folder)])
    assert results[0] == pytest.approx(results[1], rel=1e-6)


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_a_copy_in_half_precision_predicts_as_autocast_does(
    model: str, make_config: Make, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference's linear and convolution weights are bfloat16, the policy's float32."""
    runs = []
    for halved in (True, False):
        if not halved:
            monkeypatch.setattr("tglo.train.run.keep_products_in", lambda *_: None)
        config = make_config(
            request.getfixturevalue(model),
            folder=f"halved-{halved}",
            engine={"precision": "bf16"},
            objective={"reference": "copy"},
            model={"train": "full"},
        )
        runs.append(metrics(train(config).folder))
    assert runs[0][0]["r_positive"] == runs[0][0]["r_negative"] == 0.0
    assert runs[0][-1]["r_positive"] != 0.0
    assert [x["loss"] for x in runs[0]] == [x["loss"] for x in runs[1]]


def test_bf16_autocast_and_checkpointing_run(make_config: Make) -> None:
    config = make_config(
        engine={"precision": "bf16"}, model={"gradient_checkpointing": "selective", "train": "full"}
    )
    lines = metrics(train(config).folder)
    assert np.isfinite([line["loss"] for line in lines]).all()


def test_validation_images_come_from_the_same_seeds(make_config: Make) -> None:
    config = make_config(
        output={
            "validation_prompts": ["a temple", "a flower"],
            "validation_every": 2,
            "validation_steps": 2,
        },
        optimizer={"ema_decay": 0.5},
    )
    folder = train(config).folder / "samples"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png")) == [
        "step-00000002/000.png",
        "step-00000002/001.png",
        "step-00000004/000.png",
        "step-00000004/001.png",
    ]


@pytest.mark.parametrize("at", [2, 4])
def test_a_run_that_ended_before_its_validation_makes_up_for_it(
    at: int, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections: dict[str, dict[str, object]] = {
        "output": {
            "validation_prompts": ["a temple", "a flower"],
            "validation_every": 2,
            "validation_steps": 1,
            "save_every": 1,
        },
        "optimizer": {"ema_decay": 0.5},
    }
    straight = train(make_config(folder="straight", **sections)).folder / "samples"
    validate = exporting.validate

    def killed(run: Run, step: int) -> None:
        if step == at:
            raise KeyboardInterrupt
        validate(run, step)

    config = make_config(**sections)
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "validate", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    samples = train(config).folder / "samples"
    names = [path.relative_to(straight) for path in sorted(straight.rglob("*.png"))]
    assert len(names) == 4
    assert [path.relative_to(samples) for path in sorted(samples.rglob("*.png"))] == names
    assert all((samples / name).read_bytes() == (straight / name).read_bytes() for name in names)


def test_a_finished_run_started_again_only_reports(make_config: Make) -> None:
    config = make_config()
    first = train(config)
    weights = final_weights(first.folder)
    again = train(config)
    assert again.finished and again.steps == 4
    assert_same(weights, final_weights(first.folder))
