"""The logic with which GPU blocks wait for each other, simulated on CPU threads."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
COMPILER = shutil.which("c++") or shutil.which("g++") or ""


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
@pytest.mark.parametrize("sanitizer", ["", "thread"])
def test_arrival_counters(sanitizer: str, tmp_path: Path) -> None:
    source = Path(__file__).with_name("arrival_simulation.cpp")
    program = tmp_path / "simulation"
    flags = ["-std=c++20", "-O1", "-g", "-pthread", f"-I{CSRC}"]
    if sanitizer:
        flags.append(f"-fsanitize={sanitizer}")
    built = subprocess.run(
        [COMPILER, *flags, str(source), "-o", str(program)], capture_output=True, text=True
    )
    if sanitizer and built.returncode:
        pytest.skip("the compiler has no thread sanitizer")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
    if sanitizer and "unexpected memory mapping" in done.stderr:
        pytest.skip("the thread sanitizer does not start on this kernel")
    assert done.returncode == 0 and "PASSED" in done.stdout, done.stdout + done.stderr[:2000]
