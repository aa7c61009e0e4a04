"""The benchmarks end to end on tiny sizes; nothing here is asserted about speed."""

from __future__ import annotations

import copy
import json
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import report
from benchmarks.page import RESULTS, fill
from tglo import cli
from tglo.bench import accuracy, cases, contenders, gpu, suite, table
from tglo.bench.record import load

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    threads = torch.get_num_threads()
    sizes = [cases.Size("tiny", 2), cases.Size("tiny", 3)]
    found = suite.measure(sizes, device="cpu", quick=True)
    assert torch.get_num_threads() == threads
    return found


def test_command_prints_tables_and_writes_a_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "record.json"
    status = cli.main(["bench", "--quick", "--device", "cpu", "--output", str(output)])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    for word in ("contender", "x eager", "largest error of r", "host cost", "tglo reference"):
        assert word in printed.out
    found = json.loads(output.read_text())
    assert found["quick"] and {row["size"] for row in found["rows"]} == {"tiny-4"}


def test_a_record_explains_its_figures(record: dict[str, Any]) -> None:
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert {"date", "commit", "machine", "gpu", "versions", "device"} <= set(record)
    assert record["machine"]["cpu"] and record["machine"]["cores"] >= 1
    assert {"torch", "triton", "cuda", "python", "tglo"} <= set(record["versions"])
    assert "node" not in json.dumps(record["machine"])
    names = contenders.available(CPU, compiled=False)
    assert [(row["size"], row["contender"]) for row in record["rows"]] == [
        (size, name) for size in ("tiny-2", "tiny-3") for name in names
    ]
    for row in record["rows"]:
        assert row["problem"] is None
        time = row["time_us"]
        assert 0 < time["minimum"] <= time["low"] <= time["median"] <= time["high"]
        assert row["error_log_ratio"] >= 0 and row["error_gradient"] >= 0
        if row["contender"].startswith("tglo"):
            limit = 1e-5 if "cached" in row["contender"] else 1e-6
            assert row["error_log_ratio"] <= limit
    assert [row["contender"] for row in record["host"]] == names
    assert suite.problems(record) == []


def test_inputs_are_as_in_training() -> None:
    case = cases.make_case((16, 4, 64, 64), mse=0.5)
    again = cases.make_case((16, 4, 64, 64), mse=0.5)
    assert torch.equal(case.policy, again.policy)
    exact = cases.truth(case)
    assert case.base_error.mean().item() == pytest.approx(0.5, rel=0.05)
    assert 0.2 < exact.log_ratio.abs().mean().item() < 0.8
    assert (exact.log_ratio > 0).any() and (exact.log_ratio < 0).any()


def test_half_precision_means_are_worse_than_ours() -> None:
    rows = accuracy.measure(CPU, (4, 4, 64, 64))
    by_name = {(row["name"], row["mse"]): row["largest_error"] for row in rows}
    for mse in accuracy.ERRORS:
        assert by_name["eager, model dtype", mse] > 1e-3
        assert by_name["eager, all upcast to fp32", mse] < 1e-3
        assert by_name["tglo reference", mse] <= 1e-6


def _contender(outcome: Any) -> contenders.Contender:
    return contenders.Contender(None, lambda case: case.policy, outcome, 8, ours=True)


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(case: cases.Case) -> cases.LossOutcome:
        right = cases.truth(case)
        return right._replace(gradient=right.gradient * float("nan"))

    def broken(case: cases.Case) -> cases.LossOutcome:
        raise RuntimeError("no such kernel\nat line 1")

    monkeypatch.setitem(contenders.CONTENDERS, "tglo wrong", lambda: _contender(wrong))
    monkeypatch.setitem(contenders.CONTENDERS, "tglo broken", lambda: _contender(broken))
    size = cases.Size("tiny", 2)
    rows = suite.measure_size(
        size, ["tglo wrong", "eager", "tglo broken"], CPU, rounds=1, seconds=0
    )
    assert "gradient is off by inf" in rows[0]["problem"] and rows[0]["time_us"] is None
    assert rows[1]["problem"] is None and rows[1]["time_us"] is not None
    assert rows[2]["problem"] == "RuntimeError: no such kernel"
    found = suite.problems({"quick": True, "rows": rows})
    assert len(found) == 2
    assert "RuntimeError" in table.speed({"device": "cpu", "rows": rows}, "tiny-2", table.text)
    json.dumps(rows, allow_nan=False)


def test_accuracy_beyond_its_limit_is_named() -> None:
    row = {"name": "tglo cpu", "mse": 0.1, "limit": 1e-6, "problem": None}
    assert not accuracy.failures([{**row, "largest_error": 1e-6}])
    assert "off by 0.002" in accuracy.failures([{**row, "largest_error": 2e-3}])[0]
    missing = {**row, "largest_error": None, "problem": "RuntimeError: no"}
    assert "RuntimeError" in accuracy.failures([missing])[0]


def test_sizes_by_name() -> None:
    assert cases.size_by_name("flux-8").shape == (8, 16, 128, 128)
    assert cases.size_by_name("qwen-image-4") == cases.Size("qwen-image", 4)
    for name in ("sdxl", "sdxl-0", "sdxl-x", "qwen-image", "video-1"):
        with pytest.raises(ValueError, match="use FAMILY-BATCH"):
            cases.size_by_name(name)


class _Graph:
    """Stands for a CUDA graph: counts its replays."""

    replays = 0

    def replay(self) -> None:
        _Graph.replays += 1

    def reset(self) -> None:
        pass


class _Event:
    """Stands for a CUDA event; every interval is 2 ms."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        pass

    def elapsed_time(self, other: _Event) -> float:
        return 2.0


def test_gpu_times_with_a_stand_in_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases.make_case((2, 4, 16, 16))  # 16,384 bytes with its gradient
    stream = SimpleNamespace(wait_stream=lambda other: None)
    stand_ins = {
        "CUDAGraph": _Graph,
        "Event": _Event,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda which: nullcontext(),
        "graph": lambda which: nullcontext(),
        "synchronize": lambda: None,
        "get_device_properties": lambda device: SimpleNamespace(L2_cache_size=40_000),
        "memory_allocated": lambda: 1_000,
        "reset_peak_memory_stats": lambda: None,
        "max_memory_allocated": lambda: 5_000,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    copies = gpu.rotation(case)
    assert len(copies) == 7  # 2.5 * 40,000 / 16,384
    assert len({copy.policy.data_ptr() for copy in copies}) == 7
    assert all(torch.equal(copy.policy, case.policy) for copy in copies)
    assert all(copy.policy.requires_grad for copy in copies)
    found = contenders.checked(contenders.CONTENDERS["tglo reference"](), case, cases.truth(case))
    assert found.problem is None
    with warnings.catch_warnings():  # the profiler's, that there is no GPU
        warnings.simplefilter("ignore")
        figures = suite.gpu_figures(found, copies, 10, bandwidth=1e9)
    assert figures["time_us"]["median"] == pytest.approx(2000 / 7)
    assert figures["in_cache_us"]["median"] == pytest.approx(2000 / 20)
    assert figures["floor_us"] == pytest.approx(12 * 2048 / 1e9 * 1e6)
    assert figures["peak_bytes"] == 4_000
    assert figures["launches"] is None  # nothing ran on a device
    assert _Graph.replays == 30
    row = {**suite.new_row(cases.Size("tiny", 2), "tglo reference", found), **figures}
    shown = table.speed({"device": "cuda", "rows": [row]}, "tiny-2", table.text)
    assert "9%" in shown  # 24.6 of 286 us


def _with_gpu_figures(record: dict[str, Any]) -> dict[str, Any]:
    """A CPU record dressed as a GPU's: what its tables and figure are made from."""
    found = copy.deepcopy(record)
    found.update(device="cuda", copy_bytes_per_second=4e12, file="gpu.json")
    found["gpu"] = {"name": "GPU", "driver": "1.2"}
    for row in found["rows"]:
        row.update(in_cache_us=None, launches=2, peak_bytes=10**6, floor_us=1.0)
    return found


def test_report(record: dict[str, Any], tmp_path: Path) -> None:
    records = [{**record, "file": "cpu.json"}, _with_gpu_figures(record)]
    page = fill(report.PAGE.read_text(), report.blocks(records))
    assert "`benchmarks/results/gpu.json`" in page and "launches" in page
    assert "No GPU has been measured yet" not in page
    assert page == fill(page, report.blocks(records))
    assert "No GPU has been measured yet" in report.blocks(records[:1])["gpu"]
    report.draw(records, tmp_path / "figure.png")
    data = (tmp_path / "figure.png").read_bytes()
    assert data.startswith(b"\x89PNG") and 5_000 < len(data) < 100_000
    with pytest.raises(ValueError, match="lacks"):
        fill("no markers", report.blocks(records))


def test_the_page_says_what_the_records_say() -> None:
    records = load(RESULTS)
    assert records and all(record["device"] in report.SHOWN for record in records)
    page = report.PAGE.read_text()
    assert fill(page, report.blocks(records)) == page, "run: python benchmarks/report.py"
    assert report.FIGURE.stat().st_size < 100_000
