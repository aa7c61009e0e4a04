"""The emulation itself: kernels with known faults are reported as such."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.csrc.emulation.build import Build, default_folder, missing
from tests.csrc.emulation.rewrite import rewrite

HERE = Path(__file__).parent

# What a kernel with this fault makes the emulation say; each is one case of faulty_kernels.cu.
REPORTS = {
    "divergent": "its threads meet at different barriers",
    "early_exit": "ends while its block waits at a barrier",
    "shuffle": "exchange in different places or with different masks",
    "absent_lane": "ends while its warp waits for it",
    "deadlock": "deadlock: blocks poll what nobody changes",
    "left_cluster": "shared memory",  # of a block that has ended, or ends too early: who is first is drawn
    "not_cooperative": "a barrier of the grid in a launch that is not cooperative",
    "misaligned": "an access of 16 bytes",
}


@pytest.fixture(scope="module")
def program() -> Path:
    if reason := missing():
        pytest.skip(reason)
    build = Build(default_folder(), csrc=HERE / "faulty", tree="faulty")
    return build.link(build.kernels(), build.folder / "faulty-kernels")


@pytest.mark.parametrize("name", REPORTS)
def test_a_faulty_kernel_is_reported(program: Path, name: str) -> None:
    done = subprocess.run([str(program), name], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stdout + done.stderr
    assert REPORTS[name] in done.stderr
    assert "every call fails from then on: 1" in done.stdout


def test_errors_of_the_device_are_cudas(program: Path) -> None:
    done = subprocess.run([str(program), "limits"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["720", "912", "1", "0", "900", "0"]


def test_what_the_rewriter_does_not_know_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"x\.cu: the emulation does not know the instruction: bar\.sync 1;"
    ):
        rewrite('asm volatile("bar.sync 1;" ::: "memory");', "x.cu")
    with pytest.raises(ValueError, match=r"x\.cu: the emulation does not understand: asm goto"):
        rewrite("asm goto (nothing);", "x.cu")


def test_lines_stay_where_they_are() -> None:
    source = (HERE.parents[2] / "csrc/common/device.cuh").read_text()
    changed = rewrite(source, "device.cuh")
    before, after = source.splitlines(), changed.splitlines()
    assert len(before) == len(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) < 10
