"""Forked processes are like those of subprocess, but for the seconds of their imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.preloaded import Popen, run


def test_a_process_is_what_was_asked_for(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "print(sys.argv, os.getcwd(), os.environ['MINE'], os.environ.get('HOME'), __name__)\n"
        "print(sys.stdin.read(), file=sys.stderr)\n"
        "print(os.getsid(0) == os.getpid(), os.getppid() == int(sys.argv[1]))\n"
        "raise SystemExit(7)"
    )
    with Popen(
        [sys.executable, "-c", code, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={"MINE": "1"},
        text=True,
        start_new_session=True,
    ) as process:
        output, errors = process.communicate("given")
    assert process.returncode == 7
    assert output.splitlines() == [
        f"['-c', '{os.getpid()}'] {tmp_path} 1 None __main__",
        "True False",
    ]
    assert errors == "given\n"


def test_ends_and_signals_are_seen() -> None:
    waits = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"]
    with Popen(waits, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "1\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
        process.kill()
        assert process.wait(timeout=10) == -signal.SIGKILL
    fails = run([sys.executable, "-c", "import nowhere"], capture_output=True, text=True)
    assert fails.returncode == 1 and "ModuleNotFoundError" in fails.stderr
    with pytest.raises(subprocess.CalledProcessError):
        run([sys.executable, "-c", "exit(2)"], check=True)


def test_a_process_has_the_libraries_and_no_tglo() -> None:
    code = "import sys; print('diffusers' in sys.modules, 'tglo' in sys.modules)"
    start = time.monotonic()
    told = run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.stdout == "True False\n" and time.monotonic() - start < 10


def test_no_two_draw_alike_without_a_seed() -> None:
    code = "import random, numpy as np; print(random.random(), np.random.random())"
    told = [run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(2)]
    pairs = list(zip(*(one.stdout.split() for one in told), strict=True))
    assert len(pairs) == 2 and all(one != other for one, other in pairs)


def test_an_id_that_comes_again_is_another_process() -> None:
    first = Popen([sys.executable, "-c", "pass"])
    assert first.wait(timeout=10) == 0
    ended = first._server.ended
    before = {number: 99 for number in range(first.pid + 1, first.pid + 3000)}
    ended.update(before)  # as after the system has used up its ids
    try:
        with Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as second:
            running = second.poll() is None
            second.kill()
        assert running and second.returncode == -signal.SIGKILL
    finally:
        for number in before:
            ended.pop(number, None)


def test_a_module_and_a_file(tmp_path: Path) -> None:
    told = run([sys.executable, "-m", "tglo", "--version"], capture_output=True, text=True)
    assert told.returncode == 0 and told.stdout.startswith("tglo "), told
    (tmp_path / "script.py").write_text("import sys; print(sys.argv[1])")
    told = run([sys.executable, str(tmp_path / "script.py"), "x"], capture_output=True, text=True)
    assert told.stdout == "x\n"
