"""A small scored data set with one of each fault."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_manifest import png

HOSTILE = "<script>document.title = 'run'</script> & <img src=x onerror=alert(1)>"
Rows = Sequence[Sequence[Any]]


def write(folder: Path, rows: Rows, name: str = "data.csv") -> Path:
    with open(folder / name, "w", newline="") as file:
        csv.writer(file).writerows([("prompt", "image", "score"), *rows])
    return folder / name


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Twelve good rows of three prompts, then the faults."""
    rows: list[tuple[str, str, object]] = []
    for n in range(12):
        size = [(48, 48), (96, 48), (48, 96)][n % 3]
        (tmp_path / f"{n}.png").write_bytes(png(20 * n, size))
        rows.append((f"prompt {n // 4}", f"{n}.png", n))
    (tmp_path / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing")
    rows += [
        ("prompt 0", "copy.png", 9),  # the image 0.png, which has 0
        ("prompt 0", "1.png", 11),  # scored again, with another score
        ("prompt 0", "2.png", 2),  # named again, with the same
        (
            "Prompt  1",
            "3.png",
            3,
        ),  # an image of another prompt, and a prompt written in another way
        (HOSTILE, "gone.png", 30),
        ("last", "broken.png", -30),
    ]
    return write(tmp_path, rows)
