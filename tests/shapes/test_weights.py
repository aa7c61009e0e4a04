"""Weights that an installation goes without are named with the remedy before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tglo.shapes import BASE, __main__, reader
from tglo.shapes.weights import shipped

REMEDY = r'absent is not there: .* pip install "\.\[train\]" in a checkout of tglo brings them'


def test_they_are_there_in_a_checkout() -> None:
    assert shipped(BASE) == BASE and all(shipped(path) == path for path in reader.FILES.values())


def test_a_world_without_its_base_model_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(__main__, "BASE", tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=REMEDY):
        __main__.write_world(tmp_path / "world")
    assert not (tmp_path / "world").exists()


def test_a_reward_without_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reader.FILES, "reader", tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=REMEDY):
        reader.load.__wrapped__("reader")
