"""Records of benchmarks: what they say of the machine and the software (never the machine's name), what
their rows say of failures, and their files.
"""

from __future__ import annotations

import datetime
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch

import tglo
from tglo.files import read_json, write_json
from tglo.ops.extension import EXTENSION

Record = dict[str, Any]
T = TypeVar("T")

NO_MEMORY = "out of memory"


def attempt(run: Callable[[], T]) -> tuple[T | None, str | None]:
    """Return what `run` returns and None, or None and a row's problem: one contender's failure must not
    hide the others' results.
    """
    try:
        return run(), None
    except torch.OutOfMemoryError:
        return None, NO_MEMORY
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return None, f"{type(error).__name__}: {lines[0]}"


def finite(value: float | None) -> float | None:
    """Return the value, or None for an infinity or NaN, which JSON has not."""
    return value if value is not None and math.isfinite(value) else None


def _output(*command: str, folder: Path | None = None) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, cwd=folder)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> dict[str, Any] | None:
    """Describe the checkout that this package lies in; None for an installed package."""
    folder = Path(__file__).resolve().parents[2]
    commit = (
        _output("git", "rev-parse", "HEAD", folder=folder) if (folder / ".git").exists() else None
    )
    if commit is None:
        return None
    changed = _output("git", "status", "--porcelain", "--untracked-files=no", folder=folder)
    return {"id": commit, "changed": bool(changed)}


def _gpu() -> dict[str, Any] | None:
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0")
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "l2_bytes": found.L2_cache_size,
        "memory_bytes": found.total_memory,
        "driver": driver,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe() -> Record:
    """Return machine, GPU, driver, versions, commit and date."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
            "load": round(os.getloadavg()[0], 2),  # before the run; above 0.5 others were at work
            "system": platform.system(),
        },
        "gpu": _gpu(),
        "versions": {
            "tglo": tglo.__version__,
            "extension": EXTENSION.instructions if EXTENSION.loaded else None,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "triton": _version("triton"),
        },
    }


def save(record: Record, output: Path | None) -> None:
    """Write a record, as it grows, where one is wanted."""
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, record)


def load(folder: Path) -> list[Record]:
    """Return the records in a folder, with their files' names, oldest first; without those of quick runs."""
    records = [read_json(path) | {"file": path.name} for path in sorted(folder.glob("*.json"))]
    return sorted((r for r in records if not r["quick"]), key=lambda r: r["date"])


def newest(records: Iterable[Record]) -> dict[str, Record]:
    """Return the last record of each device."""
    return {record["device"]: record for record in records}
