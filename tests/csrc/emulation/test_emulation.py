"""The CUDA kernels of csrc/, unmodified, on emulated GPUs; `sanitize` and `mutate` beside this file do more."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.csrc.emulation.build import Build, default_folder, driver, missing

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
    pytest.mark.timeout(300),  # with the compilation, where others share the processors
]


@pytest.fixture(scope="module")
def program() -> Path:
    return driver(Build(default_folder()))


def run(program: Path, device: str, *cases: str) -> str:
    environment = {**os.environ, "TGLO_EMULATED_DEVICE": device}
    done = subprocess.run(
        [str(program), *cases], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"[1-9]\d* cases, [1-9]\d* comparisons, 0 failures", done.stdout), done.stdout
    return done.stdout


@pytest.mark.parametrize("device", ["small90", "small80"])
def test_the_loss(program: Path, device: str) -> None:
    """Errors, two launches, and what the device has of clusters and cooperative grids."""
    run(program, device, "plain", "loss", "limits")


def test_a_row_of_two_million_elements(program: Path) -> None:
    run(program, "small90", "plain", "large")


@pytest.mark.parametrize("device", ["h100", "narrow90", "single80"])
def test_other_devices(program: Path, device: str) -> None:
    """Few cases: a large GPU, one that holds no cluster of four blocks, and one of a single multiprocessor."""
    run(program, device, "few", "loss", "limits")


def test_noise_and_tokens(program: Path) -> None:
    run(program, "small80", "plain", "noise", "tokens")


def test_an_unknown_device_is_refused(program: Path) -> None:
    environment = {**os.environ, "TGLO_EMULATED_DEVICE": "abacus"}
    done = subprocess.run([str(program)], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "abacus is none of h100" in done.stderr
