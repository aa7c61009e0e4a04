"""Processes that answer, fail, end or take too long."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks.remote import Deadline, Problem, Remote
from tests.preloaded import run
from tglo.bench.record import attempt


def test_processes_that_fail_end_or_take_too_long() -> None:
    options: dict[str, Any] = {"deadline": Deadline(60), "threads": 1, "fork": True}
    with pytest.raises(Problem, match="ValueError: invalid literal"):
        Remote(int, ("x",), **options)
    with pytest.raises(Problem, match="ended with status 3"):
        Remote(os._exit, (3,), **options)
    with pytest.raises(Problem, match="no time left"):
        Remote(time.sleep, (60,), **{**options, "deadline": Deadline(0.1)})
    remote = Remote(Counter, ("tglo",), **options)
    try:
        assert remote.ask("total") == 4
        with pytest.raises(Problem, match="TypeError"):
            remote.ask("total", 1)
        assert remote.ask("total") == 4
        remote._process.kill()
        remote._process.join()
        with pytest.raises(Problem, match="ended with status -9"):
            remote.ask("total")
    finally:
        remote.close()


def test_a_fresh_process_has_the_environment_that_it_is_given() -> None:
    named = {"TGLO_TEST_OF_REMOTE": "here"}
    asked = partial(os.getenv, "TGLO_TEST_OF_REMOTE")
    remote = Remote(partial, (asked,), deadline=Deadline(60), environment=named)
    try:
        assert remote.ask("__call__") == "here"
    finally:
        remote.close()
    assert os.getenv("TGLO_TEST_OF_REMOTE") is None


def test_a_server_has_the_modules_that_it_is_to_import() -> None:
    code = """
import sys
from functools import partial
from benchmarks.remote import Deadline, Remote
assert "benchmarks.page" not in sys.modules
there = partial(eval, "'benchmarks.page' in __import__('sys').modules")
preload = ("benchmarks.remote", "benchmarks.page")
remote = Remote(partial, (there,), deadline=Deadline(60), preload=preload)
assert remote.ask("__call__")
remote.close()
"""
    # A process has one server, whatever it is asked for next.
    done = run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_memory_that_does_not_suffice_has_its_own_words() -> None:
    def grab() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    assert attempt(grab) == (None, "out of memory")
