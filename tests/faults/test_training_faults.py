"""What goes wrong while training: the run stops with one clear line, or goes on as if nothing were."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.preloaded import Popen
from tests.train.conftest import (  # noqa: F401  (fixtures)
    caches,
    make_config,
    manifest,
    sd15,
    sdxl,
    square_cache,
    write_toml,
)
from tests.train.test_loop import final_weights
from tglo.train import TrainConfig, train
from tglo.train.checkpoint import newest
from tglo.train.reports.trackers import TRACKERS

Make = Callable[..., TrainConfig]


def copy_of_cache(config: TrainConfig, tmp_path: Path) -> Path:
    return Path(shutil.copytree(config.data.cache, tmp_path / "cache-copy"))


def edit_latents(cache: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for file in cache.glob("latents-*.safetensors"):
        tensors = load_file(file)
        save_file({n: change(t) if n.startswith("mean") else t for n, t in tensors.items()}, file)


def test_nan_stops_before_the_update_and_names_the_samples(
    make_config: Make,
    tmp_path: Path,
) -> None:
    """Fault 7: in a latent, so that loss and gradient of one batch become NaN."""
    config = make_config()
    cache = copy_of_cache(config, tmp_path)
    edit_latents(cache, lambda t: torch.full_like(t, float("nan")))
    broken = make_config(folder="nan", data={"cache": str(cache)}, output={"save_every": 1})
    with pytest.raises(FloatingPointError, match=r"step 1: .*rank 0: loss nan, samples \[\d+"):
        train(broken)
    assert newest(broken.output.folder / "checkpoints") is None


@pytest.mark.timeout(200)
def test_a_nan_of_one_rank_stops_both(
    make_config: Make, square_cache: Path, tmp_path: Path
) -> None:
    """Fault 7 with DeepSpeed: one row of the cache is NaN, so one of two ranks meets it."""
    pytest.importorskip("deepspeed")
    from tests.train import test_distributed

    cache = Path(shutil.copytree(square_cache, tmp_path / "cache-copy"))
    edit_latents(cache, lambda t: t.index_fill(0, torch.tensor([0]), float("nan")))
    config = make_config(
        folder="nan", data={"cache": str(cache)}, engine={"kind": "deepspeed", "zero_stage": 2}
    )
    toml = str(write_toml(config, tmp_path / "nan.toml"))
    process = test_distributed.start("-m", "tglo.cli", "train", toml)
    output = test_distributed.finish(process)
    assert process.returncode != 0
    assert re.search(r"not finite, no weight was changed\. rank [01]: loss nan, samples", output)
    assert newest(config.output.folder / "checkpoints") is None


def test_a_truncated_cache_shard_is_named_before_a_model_is_loaded(
    make_config: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fault 4."""
    config = make_config()
    cache = copy_of_cache(config, tmp_path)
    shard = next(cache.glob("latents-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    monkeypatch.setattr("tglo.models.load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=shard.name):
        train(make_config(folder="torn", data={"cache": str(cache)}))


def test_a_cache_of_another_model_is_refused_field_by_field(
    make_config: Make,
    sdxl: Path,
) -> None:
    """Fault 11."""
    with pytest.raises(ValueError, match=r"family.*stable-diffusion"):
        train(make_config(model={"path": str(sdxl)}))


def test_fewer_samples_than_the_batch_before_a_model_is_loaded(
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fault 10."""
    monkeypatch.setattr("tglo.models.load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match="12 rows are fewer than the global batch of 64"):
        train(make_config(optimizer={"micro_batch": 64}))


def test_a_broken_tracker_leaves_metrics_complete(
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fault 30."""

    def broken(*_: Any) -> Any:
        raise ConnectionError("tracker is down")

    monkeypatch.setitem(TRACKERS, "wandb", broken)
    result = train(make_config(output={"trackers": ["wandb"]}))
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_secrets_of_the_environment_are_not_written(
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fault 28."""
    secret = "hf_0123456789abcdefghij"
    for name in ("HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, secret)
    folder = train(make_config(output={"trackers": ["tensorboard"]})).folder
    for file in folder.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file


def start(toml: Path) -> subprocess.Popen[str]:
    return Popen(
        [sys.executable, "-m", "tglo.cli", "train", str(toml)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_lines(file: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if file.exists() and len(file.read_text().splitlines()) >= count:
            return
        if process.poll() is not None:
            raise AssertionError(process.communicate()[0][-2000:])
        time.sleep(0.01)
    process.kill()
    raise AssertionError("no progress")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_in_mid_run_changes_nothing(
    number: signal.Signals,
    make_config: Make,
    tmp_path: Path,
) -> None:
    """Faults 1, 20, 21 and 22: killed or asked to stop, then resumed, the run is the same run."""
    options = {"optimizer": {"steps": 60}, "model": {"train": "full"}}
    straight = make_config(folder="straight", **options)
    train(straight)
    parted = make_config(folder="parted", **options, output={"save_every": 7})
    toml = write_toml(parted, tmp_path / "run.toml")
    file = parted.output.folder / "metrics.jsonl"
    process = start(toml)
    try:
        wait_for_lines(file, 10, process)
        with pytest.raises(ValueError, match="in use by another run"):
            train(parted)
        os.kill(process.pid, number)
        output = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    done = len(file.read_text().splitlines())
    assert done < 60
    if number == signal.SIGTERM:
        assert process.returncode == 0 and "the same command resumes" in output
        found = newest(parted.output.folder / "checkpoints")
        assert found is not None and found[1]["step"] == done
    else:
        assert process.returncode == -signal.SIGKILL
    assert train(parted).finished
    left, right = final_weights(straight.output.folder), final_weights(parted.output.folder)
    assert all(torch.equal(left[name], right[name]) for name in left)
    losses = [
        [json.loads(line)["loss"] for line in (c.output.folder / "metrics.jsonl").open()]
        for c in (straight, parted)
    ]
    assert losses[0] == losses[1]


def test_the_plain_backend_trains_to_the_same_losses(make_config: Make) -> None:
    """Fault 32: what runs where there is no extension."""
    usual = make_config(folder="usual")
    train(usual)
    plain = make_config(folder="plain", objective={"backend": "reference"})
    train(plain)
    losses = [
        [json.loads(line)["loss"] for line in (c.output.folder / "metrics.jsonl").open()]
        for c in (usual, plain)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
