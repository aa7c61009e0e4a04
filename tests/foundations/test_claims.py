"""Claims on work in a folder: who holds one, and when it is taken over."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.preloaded import Popen
from tglo.files import claims, work_list
from tglo.files.claims import Claims


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(claims, "LOST_AFTER", 0.4)
    monkeypatch.setattr(work_list, "POLL_SECONDS", (0.01, 0.02))


def test_one_of_two_has_a_piece_until_it_gives_it_back(tmp_path: Path) -> None:
    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        assert one.take("a") and not other.take("a") and other.take("b")
        assert one.has("a") and not other.has("a") and not one.has("b")
        assert other.holder("a").startswith(f"process {os.getpid()} on ")
        other.release("a")  # another's
        assert one.has("a")
        one.release("a")
        assert other.take("a")
    assert not list(tmp_path.iterdir())


def test_on_another_host_one_that_gives_signs_keeps_it(tmp_path: Path) -> None:
    """However far its clock is from ours."""
    with Claims(tmp_path, place="another") as there, Claims(tmp_path) as here:
        there.take("a")
        os.utime(tmp_path / ".a.claim", (10**9, 10**9))
        assert keep_trying(here, "a", seconds=1.2) is None
        there._end.set()
        taken = keep_trying(here, "a", seconds=5)
        assert taken is not None and taken > 0.2
        there.release("a")  # it wakes up: the piece is no longer its own
        assert here.has("a") and not there.has("a")


def keep_trying(ours: Claims, name: str, seconds: float) -> float | None:
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if ours.take(name):
            return time.monotonic() - started
        time.sleep(0.02)
    return None


def test_an_observer_that_was_held_up_has_seen_no_silence(tmp_path: Path) -> None:
    with Claims(tmp_path, place="another") as there, Claims(tmp_path) as here:
        there.take("a")
        there._end.set()
        assert not here.take("a")
        time.sleep(0.6)  # more than LOST_AFTER, in which it did not look
        assert not here.take("a")


def test_one_that_is_being_written_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / ".a.claim").touch()
    with Claims(tmp_path) as here:
        assert not here.take("a") and here.holder("a") == "another process"
        assert keep_trying(here, "a", seconds=5) is not None


HOLDING = """
import sys, time
from pathlib import Path
from tglo.files.claims import Claims

claims = Claims(Path(sys.argv[1]))
claims.take("a")
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_process_of_this_host_loses_it_at_once(tmp_path: Path) -> None:
    child = Popen([sys.executable, "-c", HOLDING, tmp_path], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    with Claims(tmp_path) as here:
        assert not here.take("a") and here.others("") == ["a"]
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert here.take("a") and here.others("") == []


def test_another_process_that_has_its_number_now_is_not_taken_for_it(tmp_path: Path) -> None:
    with Claims(tmp_path) as gone, Claims(tmp_path) as here:
        gone._content = gone._content.replace(b'"born": "', b'"born": "1')
        assert gone.take("a") and here.take("a")


def test_passes_give_each_item_once_and_wait_for_those_of_others(tmp_path: Path) -> None:
    done: set[str] = set()
    with Claims(tmp_path, place="another") as there, Claims(tmp_path) as here:
        there.take("b")
        there.take("d")
        given = []
        for free in work_list.passes(here, "abcd", str, lambda item: item in done):
            for item in free:
                given.append(item)
                done.add(item)
                here.release(item)
            if len(given) == 2:
                there.release("b")
                there._end.set()  # and no sign of the one that holds d
        assert given == ["a", "c", "b", "d"]


def test_one_that_cannot_be_read_is_lost_when_it_gives_no_sign(tmp_path: Path) -> None:
    claim = tmp_path / ".a.claim"
    claim.symlink_to(tmp_path / "absent")
    with Claims(tmp_path) as here:
        assert not here.take("a")
        assert keep_trying(here, "a", seconds=5) is not None
        assert not claim.is_symlink()


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / ".a.claim").mkdir()
    with Claims(tmp_path) as here, pytest.raises(FileExistsError, match=r"\.a\.claim is a folder"):
        here.take("a")


def test_a_claim_that_cannot_be_written_is_not_left_behind(tmp_path: Path) -> None:
    """Of one that is empty nobody could say at once that its holder is dead."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Claims(tmp_path) as here:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                here.take("a")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not list(tmp_path.iterdir()) and here.take("a")
