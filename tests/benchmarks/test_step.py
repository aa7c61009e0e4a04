"""The step benchmark: its counts at SDXL's true size, and its smallest form end to end on the CPU."""

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.page import RESULTS, fill
from benchmarks.report import PAGE
from benchmarks.step import computed, operations, suite, tables
from benchmarks.step import contenders as entered
from benchmarks.step.contenders import CONTENDERS, FULL, PEERS
from benchmarks.step.models import SIZES
from benchmarks.step.ours import Ours
from benchmarks.step.plan import PLANS, StepPlan
from benchmarks.step.worker import WaitingClock
from tests.preloaded import run
from tglo.bench import table
from tglo.bench.record import load

ROOT = Path(__file__).parents[2]
ABLATIONS, GPU_ABLATIONS = entered.ABLATIONS[FULL], entered.GPU_ABLATIONS[FULL]
SDXL = PLANS["sdxl"]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The record and the output of the command's smallest form."""
    output = tmp_path_factory.mktemp("step") / "new" / "record.json"
    command = [sys.executable, "-m", "benchmarks.step", "--quick", "--output", str(output)]
    done = run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text()), done.stdout


@pytest.fixture(scope="module")
def flops() -> dict[str, operations.Operations]:
    """The operations of the published models."""
    return {name: operations.count(SIZES[name]) for name in computed.NAMES}


def test_sdxl_has_its_size_and_its_operations(flops: dict[str, operations.Operations]) -> None:
    with torch.device("meta"):
        unet = SIZES["sdxl"].make_denoiser()
    assert sum(parameter.numel() for parameter in unet.parameters()) == 2_567_463_684
    found = flops["sdxl"]
    assert found.full / 1e12 == pytest.approx(20.2, abs=0.05)
    assert found.reference / 1e12 == pytest.approx(6.8, abs=0.05)
    assert found.vae / 1e12 == pytest.approx(4.9, abs=0.05)
    assert found.reference * 2 < found.lora < found.full
    assert found.step("full", reference=True, online=True) == (
        found.full + found.reference + found.vae + found.text
    )
    assert found.step("lora", reference=False, online=False) == found.lora


def test_the_page_has_what_is_computed(flops: dict[str, operations.Operations]) -> None:
    found = {"step work": computed.steps(flops)}
    page = PAGE.read_text()
    assert fill(page, found, "computed") == page, "run: python -m benchmarks.step.computed"


def test_every_contender_runs_and_agrees(quick: tuple[dict[str, Any], str]) -> None:
    record, printed = quick
    rows = {row["contender"]: row for row in record["rows"]}
    assert rows.keys() == {*SDXL["quick"].contenders, *(c.name for c in ABLATIONS.values())}
    for row in rows.values():
        assert row["problem"] is None and row["note"] is None
        assert row["first_loss"] == pytest.approx(row["expected_loss"], rel=1e-4)
        assert row["samples_per_second"] > 0 and row["operations"] > 0 and row["launches"] > 500
        assert 0 < row["outside"] < 1 and row["peak_bytes"] > 0
        assert {"policy", "loss", "backward", "update"} <= row["parts_s"].keys()
        assert ("reference" in row["parts_s"]) and row["of_matrix_rate"] > 0
    for train in ("full", "lora"):
        mine = [row for row in rows.values() if row["train"] == train]
        for name in ("expected_loss", "gradient_norm", "second_loss"):
            assert max(row[name] for row in mine) == pytest.approx(
                min(row[name] for row in mine), rel=1e-3
            )
        assert mine[0]["second_loss"] != mine[0]["first_loss"]
    assert rows[FULL]["launches"] < rows["tglo copy"]["launches"]
    assert suite.problems(record) == []
    assert record["suite"] == "step" and record["quick"] and "commit" in record
    for name in [*SDXL["quick"].contenders, *ABLATIONS, "x peer", "of matrix rate"]:
        assert name in printed


def test_a_record_from_a_checkout_names_its_commit() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tglo.bench.record import describe
assert describe()["commit"] is not None
"""
    done = run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tables_have_ratios(quick: tuple[dict[str, Any], str]) -> None:
    record, _ = quick
    lines = [line.split(" | ") for line in tables.at_batch(record, 2, table.markdown).splitlines()]
    ratios = {line[0].removeprefix("| "): line[3] for line in lines[2:]}
    assert all(float(ratio) > 0 for ratio in ratios.values())
    assert ratios.keys() == set(SDXL["quick"].contenders)
    assert ratios[PEERS["full"]] == ratios[PEERS["lora"]] == "1.00"
    ablation = tables.ablation(record, table.markdown).splitlines()[2:]
    assert len(ablation) == 1 + len(ABLATIONS)
    assert all(float(line.split(" | ")[2]) > 0 for line in ablation)


def test_a_contender_that_fails_is_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Ours("tglo broken", overrides={"objective": {"backend": "abacus"}})
    monkeypatch.setitem(CONTENDERS, broken.name, broken)
    saved: list[int] = []
    plan = StepPlan("tiny", "cpu", (1, 2), contenders=(broken.name,), rounds=1, threads=1)
    record = suite.measure(plan, lambda record: saved.append(len(record["rows"])))
    first, second = record["rows"]
    assert "abacus" in first["problem"] and second["problem"].startswith("not tried after: ")
    assert first["time_us"] is None and saved
    assert len(suite.problems(record)) == 2
    first["problem"], second["problem"] = "out of memory", "not tried after: out of memory"
    assert suite.problems(record) == []
    assert "out of memory" in tables.all_batches(record, table.text)


def test_a_step_that_differs_is_noted() -> None:
    found = {"gradient_norm": 1.2}
    assert suite._distance(found, "gradient_norm", 1.19, 0.01) is None
    text = suite._distance(found, "gradient_norm", 1.0, 0.1)
    assert text == "gradient_norm is 1.2 instead of 1, limit 0.1"
    assert suite._distance({"loss": float("nan")}, "loss", 1.0, 0.1)
    row = {"contender": "tglo", "batch": 1, "ours": True, "problem": None, "note": text}
    assert suite.problems({"rows": [row]}) == [f"tglo, batch 1: {text}"]
    assert tables.notes({"rows": [row]}) == [f"tglo: {text}."]


def test_the_gpu_plan_goes_by_importance() -> None:
    full, ablation, lora = SDXL["cuda"].groups()
    assert full.contenders[0].name == PEERS["full"] and full.contenders[1].name == FULL
    assert ablation.ablated and ablation.batches == (4,)
    assert not {c.name for c in full.contenders} & {c.name for c in ablation.contenders}
    assert {contender.train for contender in lora.contenders} == {"lora"}
    assert SDXL["cuda"].seconds < 480 and not SDXL["cuda"].fork
    alone = StepPlan("sdxl", "cuda", (1,), contenders=(PEERS["full"],), ablation_batch=4).groups()[
        1
    ]
    changed = {**ABLATIONS, **GPU_ABLATIONS}
    assert [c.name for c in alone.contenders] == [FULL, *(c.name for c in changed.values())]


def test_clock_tells_what_is_the_loop_s_own() -> None:
    clock = WaitingClock()
    with clock.part("policy"):
        time.sleep(0.02)
    with clock.part("loss"):
        time.sleep(0.01)
    assert clock.outside(2 * clock.seconds["policy"]) == pytest.approx(0.5)


def test_report(quick: tuple[dict[str, Any], str]) -> None:
    cpu = {**quick[0], "file": "cpu.json"}
    gpu = {**copy.deepcopy(cpu), "file": "gpu.json", "device": "cuda"}
    gpu["gpu"] = {"name": "GPU", "driver": "1.2"}
    blocks = tables.blocks([cpu])
    assert "No GPU has run this step yet" in blocks["step gpu"]
    assert "`benchmarks/results/step/cpu.json`" in blocks["step cpu"]
    blocks = tables.blocks([cpu, gpu])
    for name in [*SDXL["quick"].contenders, *ABLATIONS]:
        assert name in blocks["step gpu"]
    assert "No GPU has run this step yet" not in blocks["step gpu"]
    page = fill(PAGE.read_text(), blocks)
    assert page == fill(page, blocks)


def test_the_page_says_what_the_records_say() -> None:
    page = PAGE.read_text()
    found = tables.blocks(load(RESULTS / "step"))
    assert fill(page, found) == page, "run: python benchmarks/report.py"
