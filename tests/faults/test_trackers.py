"""Trackers that raise, leave or hang (fault 30): training continues, and metrics.jsonl is complete."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.train.conftest import (  # noqa: F401  (fixtures)
    caches,
    make_config,
    manifest,
    sd15,
    sdxl,
)
from tglo.train import TrainConfig, train
from tglo.train.config import OutputConfig
from tglo.train.reports import trackers
from tglo.train.reports.trackers import TRACKERS, Trackers

Make = Callable[..., TrainConfig]


def raising(error: BaseException) -> Callable[..., Any]:
    def act(*_: Any) -> Any:
        raise error

    return act


def nothing(*_: Any) -> None:
    pass


ERRORS = [ConnectionError("down"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()]
PLACES = ["start", "write", "close"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_another_tracker_gets_everything_all_the_same(
    place: str,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    act = {name: raising(error) if name == place else nothing for name in PLACES}

    def broken(*_: Any) -> Any:
        act["start"]()
        return act["write"], act["close"]

    seen: list[tuple[int, dict[str, float]] | str] = []
    sound = (lambda step, values: seen.append((step, values)), lambda: seen.append("closed"))
    monkeypatch.setitem(TRACKERS, "wandb", broken)
    monkeypatch.setitem(TRACKERS, "trackio", lambda *_: sound)
    with caplog.at_level(logging.WARNING, "tglo"):
        both = Trackers(OutputConfig(trackers=("wandb", "trackio")), {})
        for step in (1, 2):
            both.write(step, {"loss": 0.5})
        both.close()
    assert seen == [(1, {"loss": 0.5}), (2, {"loss": 0.5}), "closed"]
    assert f"tracker wandb {'did not ' if place != 'write' else 'failed'}" in caplog.text
    assert type(error).__name__ in caplog.text


@pytest.mark.parametrize("place", PLACES)
def test_a_hanging_tracker_does_not_hold_a_run(
    place: str,
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hung = threading.Event()

    def hang(*_: Any) -> None:
        hung.wait(60)

    act = {name: hang if name == place else nothing for name in PLACES}

    def hanging(*_: Any) -> Any:
        act["start"]()
        return act["write"], act["close"]

    monkeypatch.setitem(TRACKERS, "wandb", hanging)
    monkeypatch.setattr(trackers, "PATIENCE", 0.2)
    try:
        folder = train(make_config(output={"trackers": ["wandb"], "export": False})).folder
    finally:
        hung.set()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    assert "a tracker hangs; metrics.jsonl is complete" in caplog.text


def test_a_tracker_that_leaves_does_not_end_a_run(
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The real import of a module that calls sys.exit, as wandb does where it cannot log in."""
    (tmp_path / "wandb.py").write_text("import sys\nsys.exit('no API key')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    folder = train(make_config(output={"trackers": ["wandb", "tensorboard"]})).folder
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4
    assert any((folder / "tensorboard").iterdir())
