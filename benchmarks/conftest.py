"""Settings of a run of pytest-benchmark, its description of the machine, and the tables at its end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# Read when torch is loaded: threads that spin while they wait take the core from others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# At the end: the installed package, which has the extension, comes before the source folder.
sys.path.append(str(Path(__file__).parents[1]))

import pytest
import torch

from tglo.bench import table
from tglo.bench.clock import spread
from tglo.bench.record import describe
from tglo.bench.suite import THREADS

ACCURACY = pytest.StashKey[list[dict[str, Any]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ACCURACY] = []
    torch.set_num_threads(min(THREADS, os.cpu_count() or 1))


@pytest.fixture(scope="session")
def accuracy_rows(pytestconfig: pytest.Config) -> list[dict[str, Any]]:
    """Rows that the accuracy test leaves for the record and the table."""
    return pytestconfig.stash[ACCURACY]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """Drop the machine's name; add what explains the figures."""
    machine_info.pop("node", None)
    machine_info.update(describe())


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    output_json["accuracy"] = config.stash[ACCURACY]


def _rows(config: Any) -> list[dict[str, Any]]:
    """Convert pytest-benchmark's results to rows of a record; GPU figures where the test left some."""
    session = getattr(config, "_benchmarksession", None)
    rows = []
    for result in session.benchmarks if session else []:
        if "row" not in result.extra_info:
            continue
        row = dict(result.extra_info["row"])
        if row["time_us"] is None:
            row["time_us"] = spread([seconds * 1e6 for seconds in result.stats.data])._asdict()
        rows.append(row)
    return rows


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    """Print the ratios to eager and torch.compile, for each size."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    record = {"device": device, "rows": _rows(config), "accuracy": config.stash[ACCURACY]}
    if record["accuracy"]:
        terminalreporter.section("accuracy of the log-ratio")
        terminalreporter.write_line(table.accuracy(record, table.text))
    for size in table.sizes(record):
        terminalreporter.section(f"{size}, forward and backward")
        terminalreporter.write_line(table.speed(record, size, table.text))
