"""What tglo makes of fixed inputs stays what it was: bit for bit on the machine that recorded it.

Where an output is meant to change, record it anew and say why in the commit:

    python -m tests.golden.record
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden import outputs
from tests.golden.record import HELP, RECORD

pytest.importorskip("deepspeed")
CLOSE = (
    "epoch",
    "learning_rate",
    "loss",
    "policy_error",
    "positive_share",
    "temperature",
    "weight",
)


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads(RECORD.read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    # Paths are part of what a cache is made of, relative ones alone.
    return outputs.make_all(tmp_path_factory.mktemp("golden"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["latent_cache", "token_cache", "reference_cache"])
def test_cache(name: str, made: dict[str, Any], record: dict[str, Any]) -> None:
    assert made[name].keys() == record[name].keys()
    if record["machine"] == outputs.machine():
        assert made[name] == record[name]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", list(outputs.RUNS))
def test_run(name: str, made: dict[str, Any], record: dict[str, Any]) -> None:
    found, expected = made["runs"][name], record["runs"][name]
    if record["machine"] == outputs.machine():
        assert found == expected
    assert found["mean_square"] == pytest.approx(expected["mean_square"], rel=1e-3)
    for line, other in zip(found["metrics"], expected["metrics"], strict=True):
        assert line.keys() == other.keys()
        for key in CLOSE:
            assert line[key] == pytest.approx(other[key], rel=1e-2), key


@pytest.mark.timeout(300)
def test_demo(tmp_path: Path, record: dict[str, Any]) -> None:
    found = outputs.demo(tmp_path)
    assert found["models"].keys() == record["demo"]["models"].keys()
    if record["machine"] == outputs.machine():
        assert found == record["demo"]


def test_help() -> None:
    found = outputs.help_texts()
    assert found.keys() == {path.stem for path in HELP.glob("*.txt")}
    for name, text in found.items():
        assert text == (HELP / f"{name}.txt").read_text(), name
