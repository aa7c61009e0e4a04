"""Training on cached reference errors: the same run as with a reference, without one."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.cache.test_latents import contents
from tests.preloaded import run
from tests.train.conftest import without_export, write_toml
from tests.train.test_loop import final_weights, metrics
from tglo.cache.drawer import DrawRule
from tglo.cache.make import build, build_reference
from tglo.cache.reference_build import ReferenceReport
from tglo.files import sha256_file
from tglo.files.sealed import write_sealed
from tglo.train import TrainConfig, train

Make = Callable[..., TrainConfig]
RULE = DrawRule(seed=0, caption_dropout=0.1, draws=2, stratified=True)


@pytest.fixture
def make_config(make_config: Make) -> Make:
    return without_export(make_config)


@pytest.fixture(scope="module")
def errors(
    tmp_path_factory: pytest.TempPathFactory, caches: dict[Path, Path]
) -> Callable[[Path], Path]:
    """errors(pipeline folder) -> the folder of its reference errors, made once."""
    made: dict[Path, Path] = {}

    def make(model: Path) -> Path:
        if model not in made:
            made[model] = tmp_path_factory.mktemp("errors") / model.name
            report = build_reference(
                str(model), caches[model], made[model], RULE, device="cpu", progress=False
            )
            assert report.complete and report.samples == 12
        return made[model]

    return make


def cached(folder: Path, **data: object) -> dict[str, dict[str, object]]:
    return {
        "objective": {"reference": "cached"},
        "data": {"reference_cache": str(folder), **data},
    }


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
@pytest.mark.parametrize("what", ["full", "lora"])
def test_all_reference_modes_give_the_same_run(
    model: str,
    what: str,
    make_config: Make,
    errors: Callable[[Path], Path],
    request: pytest.FixtureRequest,
) -> None:
    base: Path = request.getfixturevalue(model)
    steps = {
        "steps": 8,
        "micro_batch": 3,
        "learning_rate": 1e-3,
    }  # three epochs: draw 0 comes again
    draws = {"draws": RULE.draws, "stratified": True}
    modes = ["copy", "cached"] if what == "full" else ["copy", "adapter-off", "cached"]
    losses, weights = [], []
    for mode in modes:
        options = cached(errors(base)) if mode == "cached" else {"data": draws}
        objective = {"reference": mode, "temperature": 0.05}
        config = make_config(
            base,
            folder=mode,
            **{**options, "objective": objective},
            optimizer=steps,
            model={"train": what},
        )
        lines = metrics(train(config).folder)
        losses.append([line["loss"] for line in lines])
        weights.append(final_weights(config.output.folder))
        assert ("noise_floor" in lines[0]) == (mode == "cached")
        if mode == "cached":
            assert lines[0]["noise_floor"] < 1e-3
            assert lines[0]["reference_error"] == pytest.approx(lines[0]["policy_error"], rel=1e-5)
        assert lines[-1]["r_positive"] != 0.0
    for other, tensors in zip(losses[1:], weights[1:], strict=True):
        assert other == pytest.approx(losses[0], rel=1e-4)
        worst = max(float((tensors[k] - weights[0][k]).abs().max()) for k in tensors)
        assert worst < 2e-4  # an update is 1e-3


def test_cached_errors_are_those_of_the_reference_in_training(
    make_config: Make, errors: Callable[[Path], Path], sd15: Path
) -> None:
    config = make_config(
        objective={"reference": "copy"},
        model={"train": "full"},
        data={"draws": 2, "stratified": True},
        optimizer={"learning_rate": 1e-12, "steps": 7, "micro_batch": 12},
    )
    lines = metrics(train(config).folder)
    other = make_config(
        folder="cached",
        **cached(errors(sd15)),
        model={"train": "full"},
        optimizer={"learning_rate": 1e-12, "steps": 7, "micro_batch": 12},
    )
    again = metrics(train(other).folder)
    assert [x["reference_error"] for x in lines] == pytest.approx(
        [x["reference_error"] for x in again], rel=1e-5
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 1}, "seed"),
        ({"data": {"draw_seed": 7}}, "seed"),
        ({"data": {"draws": 3}}, "draws"),
        ({"data": {"stratified": False}}, "stratified"),
        ({"data": {"caption_dropout": 0.2}}, "caption_dropout"),
        ({"engine": {"precision": "bf16"}}, "precision"),
    ],
)
def test_another_draw_is_refused_before_a_model_is_loaded(
    change: dict[str, object],
    field: str,
    make_config: Make,
    errors: Callable[[Path], Path],
    sd15: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = cached(errors(sd15))
    seed = change.pop("seed", 0)
    for section, values in change.items():
        options[section] = {**options.get(section, {}), **values}  # type: ignore[dict-item]
    config = dataclasses.replace(make_config(**options), seed=seed)
    monkeypatch.setattr("tglo.models.load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=rf"made for something else: {field} is"):
        train(config)


def test_other_latents_or_another_denoiser_are_refused(
    make_config: Make,
    errors: Callable[[Path], Path],
    sd15: Path,
    square_cache: Path,
    tmp_path: Path,
) -> None:
    options = cached(errors(sd15), cache=str(square_cache))
    with pytest.raises(ValueError, match="made of other latents or embeddings for 8 of 12"):
        train(make_config(**options))
    changed = tiny.build_sd15(tmp_path / "changed", seed=0)
    denoiser = UNet2DConditionModel.from_pretrained(changed, subfolder="unet")
    with torch.no_grad():
        denoiser.conv_in.bias += 0.01
    denoiser.save_pretrained(changed / "unet")
    config = make_config(**{**cached(errors(sd15)), "model": {"path": str(changed)}})
    with pytest.raises(ValueError, match="made for something else: denoiser is"):
        train(config)


def test_no_cache_says_how_to_make_one(make_config: Make) -> None:
    config = make_config(objective={"reference": "cached"})
    with pytest.raises(
        ValueError, match=r"reference is not a cache .*run `tglo cache --reference`"
    ):
        train(config)


def test_draw_seed_lets_runs_of_other_seeds_share_a_cache(
    make_config: Make, errors: Callable[[Path], Path], sd15: Path
) -> None:
    options = cached(errors(sd15), draw_seed=0)
    orders = []
    for seed in (0, 1):
        config = dataclasses.replace(make_config(folder=f"seed-{seed}", **options), seed=seed)
        orders.append([line["policy_error"] for line in metrics(train(config).folder)])
    assert orders[0] != orders[1]


def test_a_loud_noise_floor_is_warned_of(
    make_config: Make,
    errors: Callable[[Path], Path],
    sd15: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Errors that are off by 0.01 at T = 0.02: r is 0.5 where it should be 0."""
    folder = Path(shutil.copytree(errors(sd15), tmp_path / "off"))
    content = json.loads((folder / "reference.json").read_text())
    for entry in content["shards"]:
        path = folder / entry["file"]
        tensors = load_file(path)
        save_file({**tensors, "error": tensors["error"] + 0.01}, path)
        entry["sha256"] = sha256_file(path)
    del content["seal"]
    write_sealed(folder / "reference.json", content)
    options = cached(folder)
    options["objective"]["temperature"] = 0.02
    with caplog.at_level(logging.WARNING, "tglo"):
        lines = metrics(train(make_config(**options)).folder)
    assert lines[0]["noise_floor"] == pytest.approx(0.5, rel=1e-3)
    assert "not small against 1" in caplog.text


def test_two_processes_make_the_bytes_of_one(
    caches: dict[Path, Path], sd15: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real model, with another number of processes and after an interruption."""

    def run(folder: str, rank: int = 0, world_size: int = 1) -> ReferenceReport:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world_size))
        return build_reference(
            str(sd15), caches[sd15], tmp_path / folder, RULE, shard_size=2, device="cpu",
            progress=False,
        )  # fmt: skip

    assert run("one").complete
    assert run("two", 1, 2).complete  # the other process never came
    torn = next((tmp_path / "two").glob("errors-*.safetensors"))
    torn.write_bytes(torn.read_bytes()[:-1])
    report = run("two")
    assert report.complete and report.kept > 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


PEAK = """
import sys
from tglo.train import load_config, train
train(load_config(sys.argv[1]))
status = open("/proc/self/status").read()
print(1024 * int(status.split("VmHWM:")[1].split()[0]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_cached_training_holds_no_second_model(
    make_config: Make, tmp_path: Path, manifest: Path
) -> None:
    """Peak resident memory of whole processes, on a UNet of 140 MB."""
    model = tiny.build_sd15(tmp_path / "wide", channels=(192, 384))
    cache = tmp_path / "cache"
    build(str(model), manifest, cache, resolution=16, buckets=False, device="cpu")
    build_reference(str(model), cache, cache / "reference", RULE, device="cpu", progress=False)
    size = sum(file.stat().st_size for file in (model / "unet").glob("*.safetensors"))
    assert size > 120e6
    peaks = {}
    for mode in ("copy", "cached"):
        config = make_config(
            model={"path": str(model), "train": "lora"},
            data={"cache": str(cache)},
            objective={"reference": mode},
            optimizer={"steps": 2, "micro_batch": 1},
            output={"folder": str(tmp_path / mode), "export": False},
        )
        command = [sys.executable, "-c", PEAK, str(write_toml(config, tmp_path / f"{mode}.toml"))]
        done = run(command, check=True, capture_output=True, text=True)
        peaks[mode] = int(done.stdout.split()[-1])
    assert peaks["copy"] - peaks["cached"] > 0.6 * size, (peaks, size)


def test_the_noise_floor_is_in_the_metrics_after_a_resume(
    make_config: Make, errors: Callable[[Path], Path], sd15: Path
) -> None:
    config = make_config(**cached(errors(sd15)))
    train(config)
    longer = dataclasses.replace(config.optimizer, steps=5)
    lines = metrics(train(dataclasses.replace(config, optimizer=longer)).folder)
    assert len({line["noise_floor"] for line in lines}) == 1 and len(lines) == 5
