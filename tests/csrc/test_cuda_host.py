"""Plans, counters and errors of the CUDA kernels' host side, on emulated GPUs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.csrc.emulation.build import Build, default_folder, missing

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
    pytest.mark.timeout(300),  # with the compilation, where others share the processors
]
SOURCE = Path(__file__).with_name("host_side.cpp")


def run(build: Build, device: str, *arguments: str) -> None:
    objects = build.kernels() + build.compile([SOURCE])
    program = build.link(objects, build.folder / f"host-side-{build.arch}")
    environment = {**os.environ, "TGLO_EMULATED_DEVICE": device}
    command = [str(program), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "PASSED" in done.stdout, done.stdout + done.stderr[-3000:]


def test_with_clusters() -> None:
    run(Build(default_folder()), "h100", "clusters")


def test_without_clusters() -> None:
    run(Build(default_folder()), "a100")


def test_code_for_sm_80_plans_no_clusters_on_sm_90() -> None:
    """The body of the cluster kernel is empty there."""
    run(Build(default_folder(), arch=800), "h100")
