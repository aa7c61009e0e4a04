"""For all tests: no network, one thread a process (parallel tests stay fast), `tests` importable."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for processes that tests start
# Models in one file leave a small folder there, and a person's own caches are none of the tests' business.
os.environ["XDG_CACHE_HOME"] = f"{tempfile.gettempdir()}/tglo-tests-{os.getuid()}"
os.environ["PYTHONSAFEPATH"] = "1"  # they take the installed package, not the folder they start in

import pytest
import torch

# At the end: the installed package, which has the extension, comes before the source folder.
sys.path.append(str(Path(__file__).parents[1]))
torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Libraries and tests are a million objects, which each full collection of garbage would look through."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB; `mount -o remount,size=` changes that."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
