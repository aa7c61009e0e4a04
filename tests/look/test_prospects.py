"""What a run's settings would do, with a cache and without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.cache.fake_encoder import FakeEncoder
from tests.data.test_manifest import png
from tests.look.conftest import write
from tglo.cache.build import build_cache
from tglo.data.manifest import read_manifest
from tglo.look import survey
from tglo.look.prospects import Prospects
from tglo.train import DataConfig, ModelConfig, OptimizerConfig, OutputConfig, TrainConfig
from tglo.train.config_types import objective_config

OPTIMIZER = OptimizerConfig(steps=30, micro_batch=2, accumulation=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images of three prompts, of two shapes."""
    folder = tmp_path_factory.mktemp("data")
    for n in range(9):
        (folder / f"{n}.png").write_bytes(png(20 * n, (64, 32) if n % 3 else (32, 32)))
    return write(folder, [(f"prompt {n // 3}", f"{n}.png", n) for n in range(9)])


def run(
    data: Path, name: str = "tgo", cache: str = "none", percentile: float = 50, **changed: object
) -> Prospects:
    config = TrainConfig(
        model=ModelConfig(path="./base"),
        data=DataConfig(manifest=data, cache=data.parent / cache, percentile=percentile),
        objective=objective_config(name),
        optimizer=OPTIMIZER,
        output=OutputConfig(folder=data.parent / "run"),
    )
    config = replace(config, **changed)  # type: ignore[arg-type]
    found = survey(read_manifest(data), config, is_run=True, resolution=32).prospects
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "samples", "positives", "units", "epoch"),
    [("tgo", 9, 5, 9, 3), ("sft", 5, 5, 5, 2), ("dpo", 6, 3, 3, 2)],
)
def test_without_a_cache_the_manifest_tells(
    data: Path, name: str, samples: int, positives: int, units: int, epoch: int
) -> None:
    found = run(data, name)
    assert not found.refused and not found.cached and found.weighs == (name == "tgo")
    assert (found.samples, found.positives, found.units) == (samples, positives, units)
    assert (found.steps_per_epoch, found.epochs) == (epoch, 30 / epoch)


def test_with_a_cache_its_rows_and_buckets_tell(data: Path) -> None:
    rows, cache = read_manifest(data), data.parent / "cache"
    build_cache(rows.select(range(8)), cache, FakeEncoder(), resolution=32, progress=False)
    assert "lacks 1 rows" in run(data, cache="cache").refused[0]
    build_cache(rows, cache, FakeEncoder(), resolution=32, progress=False)
    found = run(data, cache="cache")
    assert found.cached and not found.refused and found.samples == 9
    assert found.bucket_shares.keys() == {"24 x 40", "32 x 32"}
    pairs = run(data, "dpo", "cache")  # a square image has no partner of its size
    assert (pairs.samples, pairs.units, pairs.bucket_shares) == (6, 3, {})


def test_what_a_run_is_refused_for_is_told(data: Path) -> None:
    assert (
        "fewer than the global batch of 64"
        in run(data, optimizer=OptimizerConfig(micro_batch=64)).refused[0]
    )
    assert "model.path is required" in run(data, model=ModelConfig()).refused[0]
    assert "has nothing to contrast" in run(data, percentile=0).refused[0]
    assert not run(data, "sft", percentile=0).refused
