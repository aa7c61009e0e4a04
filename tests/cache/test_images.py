"""What the cache says of the images that it is given."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.cache.fake_encoder import FakeEncoder, make_manifest
from tglo.cache.build import build_cache


def test_images_that_are_scaled_up_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 5 images two have a side of 20 pixels; the first is told at once, and the number at the end."""
    manifest = make_manifest(tmp_path, 5)
    with caplog.at_level(logging.WARNING, "tglo"):
        build_cache(manifest, tmp_path / "cache", FakeEncoder(), resolution=32, progress=False)
    first, last = (record.getMessage() for record in caplog.records)
    assert first.startswith("images/001.png of 20 x 40 pixels is scaled up to cover 24 x 40")
    assert last == "2 of 5 images encoded were scaled up: they are smaller than --resolution 32"
    caplog.clear()
    with caplog.at_level(logging.WARNING, "tglo"):
        build_cache(manifest, tmp_path / "small", FakeEncoder(), resolution=16, progress=False)
    assert not caplog.records
