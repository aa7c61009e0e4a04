"""A small manifest, and ratings of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tglo.data.manifest import Manifest, read_manifest
from tglo.rate.desk import Desk
from tglo.rate.events import Rate
from tglo.rate.folder import distinct_rows
from tglo.rate.log import FILE, RatingLog

ROWS = 8
_ids = itertools.count()


def new_id() -> str:
    return f"test-{next(_ids):08d}"


def stars(manifest: Manifest, row: int, given: int, rater: str = "Ann") -> Rate:
    sample = str(manifest.rows[row].sample_id)
    return Rate(id=new_id(), rater=rater, sample=sample, stars=given)


def make_manifest(folder: Path, rows: int = ROWS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["prompt,image,seed"]
    for row in range(rows):
        pixels = np.full((24, 32, 3), (20 * row + 20) % 256, np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
        lines.append(f"<script>alert({row})</script> & picture {row},{row}.png,{row}")
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return folder / "m.csv"


def fill(disk: Path) -> None:
    """Leave not a byte."""
    with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(512)):
            pass


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_manifest(tmp_path / "data")


@pytest.fixture
def manifest(path: Path) -> Manifest:
    return distinct_rows(read_manifest(path, require_scores=False))


@pytest.fixture
def make_desk(manifest: Manifest, tmp_path: Path) -> Callable[..., Desk]:
    """A desk over a folder's log; called again it is a server that was started again."""

    def make(**options: Any) -> Desk:
        rows = options.pop("rows", manifest)
        return Desk(rows, RatingLog(tmp_path / FILE), **options)

    return make
