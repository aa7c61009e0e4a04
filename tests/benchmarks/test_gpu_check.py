"""gpu_check.sh without a GPU: every command of it runs, and what ends it early leaves the results."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check.sh"
PARTS = (
    *("gpu", "machine", "build", "doctor", "self-check", "tests", "resources", "memcheck"),
    *("racecheck", "benchmarks", "tokens", "predictions", "triton"),
)
FILES = {
    *("summary.txt", "checks.log", "sanitizers.log", "benchmarks.log", "benchmarks.json"),
    *("tokens.json", "resources.json", "predictions.md"),
}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs GNU timeout")


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("REHEARSE", "TGLO"))}
    return {**kept, "PYTHON": sys.executable, **more}


def command(out: Path) -> list[str]:
    return ["bash", str(SCRIPT), "--rehearse", str(out)]


def summary(out: Path) -> dict[str, str]:
    """Return each part's line after its name."""
    lines = (out / "summary.txt").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines if ": " in line)


def of_session(session: int) -> list[int]:
    """Return the processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def test_every_part_runs_and_leaves_its_file(tmp_path: Path) -> None:
    out = tmp_path / "of a rehearsal"
    done = subprocess.run(command(out), capture_output=True, text=True, env=environment())
    said = summary(out)
    assert "A REHEARSAL" in (out / "summary.txt").read_text()
    present = [name for name in PARTS if name in said]
    assert present == [p for p in PARTS if p != "build" or "build" in said], done.stdout
    failed = {name for name in present if not said[name].startswith("ok")}
    assert failed == set() and done.returncode == 0, done.stdout
    assert {path.name for path in out.iterdir() if path.is_file()} - {"_C.so"} == FILES
    assert not (out / "resources.json").read_text().startswith("[]")
    for name in ("benchmarks.json", "tokens.json"):
        assert all(row["time_us"] for row in json.loads((out / name).read_text())["rows"])
    checks = (out / "checks.log").read_text()
    assert re.search(r"\d+ skipped", checks) and "error" not in said["tests"]
    files = sorted((ROOT / "tests/kernels").glob("test_*_gpu.py"))
    skipped = [path.name for path in files if "mark.gpu" in path.read_text()]
    assert all(name in checks for name in skipped)
    assert (out / "sanitizers.log").read_text().count("ERROR SUMMARY: 0 errors") == 2
    assert "No predictions for the CPU" in (out / "predictions.md").read_text()


def test_a_part_that_fails_and_one_that_hangs_do_not_stop_the_rest(tmp_path: Path) -> None:
    given = environment(
        REHEARSE_ONLY="machine doctor tests predictions",
        REHEARSE_FAIL="doctor",
        REHEARSE_HANG="tests",
    )
    started = time.monotonic()
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, env=given)
    said = summary(tmp_path)
    assert said["machine"].startswith("ok")
    assert said["doctor"].startswith("FAILED with status 3")
    assert said["tests"].startswith(("FAILED with status 124", "FAILED with status 137"))
    assert said["predictions"].startswith("FAILED with status 1")  # nothing was measured
    assert said["3 failed"].startswith("doctor tests predictions") and done.returncode == 3
    checks = (tmp_path / "checks.log").read_text()
    assert "this fails on purpose" in checks and "this hangs on purpose" in checks
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_killed_in_the_middle_it_has_the_results_so_far(tmp_path: Path, by: signal.Signals) -> None:
    given = environment(
        REHEARSE_ONLY="machine tests predictions", REHEARSE_HANG="tests", REHEARSE_LIMIT="50"
    )
    process = subprocess.Popen(
        command(tmp_path), env=given, start_new_session=True, stdout=subprocess.DEVNULL
    )
    try:
        checks = tmp_path / "checks.log"
        for _ in range(300):
            if checks.exists() and "this hangs on purpose" in checks.read_text():
                break
            time.sleep(0.1)
        else:
            pytest.fail("the part that hangs was not reached")
        process.send_signal(by)
        status = process.wait(timeout=30)
        said = summary(tmp_path)
        assert said["machine"].startswith("ok") and "predictions" not in said
        assert "NVIDIA-SMI of the rehearsal" in checks.read_text()
        if by == signal.SIGTERM:
            assert status == 1 and said["tests"].startswith("STOPPED by a signal")
            assert said["1 failed"].startswith("tests;")
            for _ in range(50):
                if not of_session(process.pid):
                    break
                time.sleep(0.1)
            assert of_session(process.pid) == []
    finally:
        for pid in of_session(process.pid):
            os.kill(pid, signal.SIGKILL)


def test_an_interrupted_run_starts_clean_the_next_time(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_text("old")
    given = environment(REHEARSE_ONLY="machine")
    subprocess.run(command(tmp_path), capture_output=True, env=given, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"summary.txt", "checks.log"}
    assert "old" not in (tmp_path / "summary.txt").read_text()
    assert summary(tmp_path)["0 failed"].startswith("none;")


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
def test_the_scripts_are_clean() -> None:
    stand_ins = sorted((ROOT / "benchmarks/rehearsal/bin").iterdir())
    scripts = [*sorted((ROOT / "benchmarks").glob("*.sh")), *stand_ins]
    done = subprocess.run(["shellcheck", "-x", *scripts], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
