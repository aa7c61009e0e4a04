from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny_files
from tglo.settings import ModelOptions


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own for the folders that stand for files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches"


@pytest.fixture
def files(tmp_path: Path, folders: dict[str, Path]) -> Callable[..., Path]:
    """files(kind, ...) writes the tiny folder of that kind as one file, with tiny_files' options."""

    def write(kind: str, **options: object) -> Path:
        return tiny_files.write_file(
            folders[kind], tmp_path / "files" / f"{kind}.safetensors", kind, **options
        )

    return write


@pytest.fixture
def options(folders: dict[str, Path]) -> Callable[[str], ModelOptions]:
    """options(kind) names that kind's folder for what a file does not hold."""
    return lambda kind: ModelOptions(model_config=str(folders[kind]))
