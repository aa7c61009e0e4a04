"""A small real setting: crops of photographs in several aspect ratios, scored, cached, trained on."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from tests import tiny
from tglo.cache.make import build
from tglo.train.config import TrainConfig
from tglo.train.config_files import parse_config, to_plain

ROWS = 12
SIZES = [(16, 16), (16, 24), (24, 16)]  # height, width of the crops


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 12 real image files; the score is the crop's brightness."""
    folder = tmp_path_factory.mktemp("photos")
    photos = load_sample_images().images
    random = np.random.default_rng(0)
    with (folder / "scored.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "image", "score"])
        for number in range(ROWS):
            photo = photos[number % 2]
            height, width = (4 * side for side in SIZES[number % 3])
            top = random.integers(photo.shape[0] - height)
            left = random.integers(photo.shape[1] - width)
            crop = photo[top : top + height, left : left + width]
            Image.fromarray(crop).save(folder / f"{number}.png")
            prompt = ["a temple", "a flower"][number % 2]
            writer.writerow([prompt, f"{number}.png", f"{crop.mean() / 255:.4f}"])
    return folder / "scored.csv"


@pytest.fixture(scope="session")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_sd15(tmp_path_factory.mktemp("models") / "sd15")


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_sdxl(tmp_path_factory.mktemp("models") / "sdxl")


@pytest.fixture(scope="session")
def caches(
    tmp_path_factory: pytest.TempPathFactory, manifest: Path, sd15: Path, sdxl: Path
) -> dict[Path, Path]:
    """Model folder -> its cache of the manifest."""
    result = {}
    for model in (sd15, sdxl):
        output = tmp_path_factory.mktemp("caches") / model.name
        build(str(model), manifest, output, resolution=16, device="cpu")
        result[model] = output
    return result


@pytest.fixture(scope="session")
def square_cache(tmp_path_factory: pytest.TempPathFactory, manifest: Path, sd15: Path) -> Path:
    """A cache of one bucket: every image cropped to a square."""
    output = tmp_path_factory.mktemp("caches") / "square"
    build(str(sd15), manifest, output, resolution=16, buckets=False, device="cpu")
    return output


@pytest.fixture
def make_config(
    tmp_path: Path, manifest: Path, caches: dict[Path, Path], sd15: Path
) -> Callable[..., TrainConfig]:
    """make_config(pipeline, folder=..., section={key: value}) -> a short CPU run."""

    def make(
        pipeline: Path | None = None, folder: str = "run", **sections: dict[str, object]
    ) -> TrainConfig:
        pipeline = pipeline or sd15
        base: dict[str, dict[str, object]] = {
            "model": {"path": str(pipeline)},
            "data": {"manifest": str(manifest), "cache": str(caches[pipeline])},
            "objective": {"temperature": 0.1},
            "optimizer": {"steps": 4, "micro_batch": 2, "learning_rate": 1e-3},
            "engine": {"device": "cpu", "kind": "plain"},
            "output": {"folder": str(tmp_path / folder), "log_every": 1, "progress": False},
        }
        for name, values in sections.items():
            base[name] = base.get(name, {}) | values
        return parse_config(base)

    return make


def without_export(make_config: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    """make_config, for tests that look at no export: writing one and trying it is half of a short run."""

    def make(*arguments: Any, **sections: dict[str, object]) -> TrainConfig:
        output = {"export": False} | sections.pop("output", {})
        return make_config(*arguments, **sections, output=output)

    return make


def write_toml(config: TrainConfig, path: Path) -> Path:
    """The config as a TOML file, for the command line."""
    import tomli_w

    path.write_text(tomli_w.dumps(to_plain(config)))
    return path
