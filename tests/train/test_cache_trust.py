"""What a run makes of the cache it trains on: damaged shards, older formats, more rows than it needs."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cache.old_format import as_format_1
from tests.train.conftest import write_toml
from tests.train.test_loop import metrics
from tglo.cache.drawer import DrawRule
from tglo.cache.make import build_reference, is_made_of
from tglo.data.errors import CacheError
from tglo.data.manifest import read_manifest
from tglo.train import TrainConfig, train

Make = Callable[..., TrainConfig]


@pytest.fixture
def cache(caches: dict[Path, Path], sd15: Path, tmp_path: Path) -> Path:
    """A copy of the cache."""
    return Path(shutil.copytree(caches[sd15], tmp_path / "cache"))


def flip(path: Path) -> None:
    """Flip the lowest bit of the last number's mantissa: no value looks strange."""
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["latents-00000.safetensors", "text-00000.safetensors"])
def test_36_a_flipped_bit_stops_a_run_before_its_first_checkpoint(
    make_config: Make, cache: Path, name: str
) -> None:
    config = make_config(data={"cache": str(cache)}, optimizer={"steps": 2})
    flip(cache / name)
    with pytest.raises(CacheError, match=f"{name} differs from its checksum; run `tglo cache`"):
        train(config)
    assert not list(config.output.folder.glob("checkpoints/*"))
    assert not list(config.output.folder.glob("export*"))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, verify=False))
    assert train(config).finished


def test_36_a_flipped_bit_stops_every_rank(make_config: Make, cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    from tests.train.test_distributed import WORKER, finish, start

    flip(cache / "latents-00000.safetensors")
    config = make_config(
        data={"cache": str(cache)},
        optimizer={"steps": 1, "micro_batch": 1},
        engine={"kind": "deepspeed"},
    )
    process = start(str(WORKER), str(write_toml(config, tmp_path / "run.toml")))
    output = finish(process)
    assert process.returncode != 0
    assert "CacheError" in output and "latents-00000.safetensors differs" in output
    assert not list(config.output.folder.glob("checkpoints/*"))


def test_a_cache_of_format_1_is_trained_on(
    make_config: Make, cache: Path, sd15: Path, manifest: Path
) -> None:
    expected = metrics(train(make_config(optimizer={"steps": 2})).folder)
    as_format_1(cache, read_manifest(manifest).identity)
    assert is_made_of(cache, manifest, 16)
    rule = DrawRule(seed=0, caption_dropout=0.1, draws=1, stratified=True)
    errors = cache / "reference"
    assert build_reference(str(sd15), cache, errors, rule, device="cpu", progress=False).complete
    for folder, sections in (
        ("again", {}),
        ("cached", {"objective": {"reference": "cached"}}),
    ):
        config = make_config(
            folder=folder, data={"cache": str(cache)}, optimizer={"steps": 2}, **sections
        )
        found = metrics(train(config).folder)
        if folder == "again":
            assert [line["loss"] for line in found] == [line["loss"] for line in expected]


def test_a_run_on_some_of_the_rows_needs_no_other_cache(
    make_config: Make, manifest: Path, tmp_path: Path
) -> None:
    with manifest.open() as file:
        rows = list(csv.reader(file))
    part = manifest.parent / f"{tmp_path.name}.csv"
    with part.open("w", newline="") as file:
        csv.writer(file).writerows(rows[:9])
    assert train(make_config(data={"manifest": str(part)}, optimizer={"steps": 2})).finished
