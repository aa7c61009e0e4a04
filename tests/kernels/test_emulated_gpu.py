"""The tests for a GPU on emulated ones: what can be run of them without torch's streams, graphs and memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.csrc.emulation.build import missing
from tests.csrc.emulation.extension.build import build_extension

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=f"the emulation needs {missing()}"),
    pytest.mark.timeout(600),  # compiling, the first time
]
HERE = Path(__file__).parent
FILES = ("loss", "log_ratios", "tokens", "noise")
TORCHS_OWN = "graph streams synchronisation host peak another"
TOO_LARGE = "2_31 model_sizes 32_bits sixteen real_sizes more_rows 7-cuda 40-cuda"


@pytest.mark.parametrize(
    ("device", "files", "least"), [("h100", FILES, 90), ("a100", FILES[:1], 40)]
)
def test_tests_for_a_gpu(device: str, files: tuple[str, ...], least: int) -> None:
    left_out = " and ".join(f"not {word}" for word in f"{TORCHS_OWN} {TOO_LARGE}".split())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "tests.csrc.emulation.extension.as_gpu", "-k", f"cuda and {left_out}"]
    done = subprocess.run(
        [*command, *(str(HERE / f"test_{name}_gpu.py") for name in files)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "TGLO_EMULATED_EXTENSION": str(build_extension()),
            "TGLO_EMULATED_DEVICE": device,
        },
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) >= least
    assert "skipped" not in done.stdout
