from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tglo import models

BUILDERS = {"sd15": tiny.build_sd15, "sd2": tiny.build_sd2, "sdxl": tiny.build_sdxl}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder of each kind, built once; tests must not write into them."""
    root = tmp_path_factory.mktemp("models")
    return {name: build(root / name) for name, build in BUILDERS.items()}


@pytest.fixture(params=list(BUILDERS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def family(kind: str, folders: dict[str, Path]) -> models.Family:
    """A freshly loaded model of each kind."""
    return models.load(folders[kind])


@pytest.fixture
def load(folders: dict[str, Path]) -> Callable[..., models.Family]:
    """load(kind, ...) loads a fresh model of that kind."""
    return lambda kind, **options: models.load(folders[kind], **options)
