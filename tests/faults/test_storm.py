"""One pass of the storm over every kind of fault, with fixed seeds: about half a minute."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.timeout(300)
def test_a_short_storm_is_survived() -> None:
    """In a process of its own: commands are forked from it, so it must have one thread."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.storm", "--short"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "bad config" in done.stdout  # every kind is counted
