"""The benchmark of the token losses: its contenders agree, a wrong result is found, tables hold all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.page import fill
from benchmarks.report import PAGE
from benchmarks.tokens import suite, tables
from benchmarks.tokens.contenders import NAMES, TASKS, Inputs, contenders, make_inputs
from benchmarks.tokens.measure import check
from tglo.bench import table


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    made = make_inputs("tiny", 2, torch.float32, "cpu")
    hidden = made.hidden.detach()[:, :96].requires_grad_()
    mask = made.mask[:, :96]
    return Inputs(
        hidden,
        made.weight,
        made.targets[:, :96],
        mask,
        made.reference_hidden[:, :96],
        made.scores,
        int(mask.sum()),
    )


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return suite.measure(
        device="cpu",
        dtype="float32",
        task=TASKS,
        size=["tiny"],
        batch=[1],
        rounds=1,
        backend="reference",
        names=["eager", "tglo"],
    )


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("torch.compile", "Liger-Kernel")]
)
def test_contenders_are_exact_to_rounding(name: str, task: str, inputs: Inputs) -> None:
    named = {contender.name: contender for contender in contenders("auto")}
    found = check(named[name], task, inputs)
    assert found["error_value"] < 1e-5 and found["error_gradient"] < 1e-5


def test_every_contender_is_checked_and_timed(record: dict[str, Any]) -> None:
    rows = record["rows"]
    assert [(row["task"], row["contender"]) for row in rows] == [
        (task, name) for task in TASKS for name in ("eager", "tglo")
    ]
    for row in rows:
        assert row["problem"] is None and not row["wrong"]
        assert row["time_us"]["median"] > 0 and row["peak_bytes"] > 0 and row["floor_us"] > 0
    assert record["rows"][0]["shape"] == [1, 1024, 64, 8192]


def test_tables_and_the_page_hold_them(record: dict[str, Any], tmp_path: Path) -> None:
    text = tables.one_place(record, record["rows"][-1], table.text)
    assert text.startswith("loss, tiny x 1, float32") and "100.0%" in text
    found = tables.blocks([record | {"file": "some.json"}])
    assert "results/tokens/some.json" in found["tokens cpu"]
    assert found["tokens cpu"].count("| tglo |") == 4
    assert found["tokens gpu"] == tables.NOT_MEASURED
    assert "some.json" in fill(PAGE.read_text(), found)


def test_a_wrong_or_absent_result_is_noted() -> None:
    good = {"error_value": 1e-6, "error_gradient": 1e-6, "problem": None, "wrong": False}
    rows = [
        {"contender": "eager", **good},
        {"contender": "tglo", **good},
        {"contender": "tglo", **good, "error_gradient": 1e-3},
        {"contender": "tglo", **good, "error_value": float("nan")},
        {"contender": "tglo", "error_value": None, "error_gradient": None, "problem": "no memory"},
        {"contender": "torch.compile", **good, "problem": "no compiler"},
    ]
    suite._judge(rows, 1e-5)
    assert [row.get("wrong", False) for row in rows] == [False, False, True, True, True, False]
    assert rows[2]["problem"] == "error_gradient 1.0e-03 is above 1.0e-05"
