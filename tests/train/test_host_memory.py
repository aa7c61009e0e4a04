"""What the kernel and the control groups leave of the host's memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tglo.train.host_memory import available


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:   500 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/job/step\n")
    (tmp_path / "cgroup" / "job" / "step").mkdir(parents=True)
    return tmp_path


def limit(group: Path, most: str, used: int, given_up: int = 0) -> None:
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 7\ninactive_file {given_up}\n")


def found(machine: Path) -> int | None:
    return available(machine / "proc", machine / "cgroup")


def test_without_limits_the_kernels_number(machine: Path) -> None:
    limit(machine / "cgroup" / "job", "max", 100)
    assert found(machine) == 512_000


@pytest.mark.parametrize("group", ["job/step", "job", "."])
def test_the_tightest_group_around_the_process(group: str, machine: Path) -> None:
    limit(machine / "cgroup" / "job" / "step", "400000", 0)
    limit(machine / "cgroup" / group, "300000", 250_000, given_up=20_000)
    assert found(machine) == 70_000


def test_beyond_its_limit_nothing_is_left(machine: Path) -> None:
    limit(machine / "cgroup", "100", 200)
    assert found(machine) == 0


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    assert available(tmp_path, tmp_path) is None


def test_here() -> None:
    here = available()
    assert here is None or here > 2**20
