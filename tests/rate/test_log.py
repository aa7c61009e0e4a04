"""A rating that was acknowledged is in the log, whatever happens to the process or the disk."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.rate.conftest import fill, new_id
from tglo.files import DamagedFile, DiskFull
from tglo.rate.events import Again, Event, Rate, Skip, Undo, clean_name, key_of
from tglo.rate.log import FILE, RatingLog, read_log


def events() -> list[Event]:
    rated = Rate(id=new_id(), rater="Ann", at="now", sample="12", stars=4, seconds=1.5)
    skipped = Skip(id=new_id(), rater="Zoë", sample="9223372036854775807")
    undone = Undo(id=new_id(), rater="Ann", of=rated.id)
    return [rated, skipped, undone, Again(id=new_id(), rater="Zoë")]


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    first, second = events(), events()
    log = RatingLog(tmp_path / FILE)
    log.append(first)
    log.close()
    again = RatingLog(tmp_path / FILE)
    assert (again.id, again.events) == (log.id, first)
    again.append(second)
    assert read_log(tmp_path / FILE).events == first + second
    lines = (tmp_path / FILE).read_text().splitlines()
    assert len(lines) == 9 and '"stars":4' in lines[1] and '"kind":"undo"' in lines[3]


@pytest.mark.parametrize("tail", [b'{"kind":"ra', b'{"kind":"rate","id":"12345678"}', bytes(100)])
def test_a_torn_line_is_cut_off_and_told(
    tmp_path: Path, tail: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / FILE
    RatingLog(path).append(events()[:1])
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert len(read_log(path).events) == 1 and path.read_bytes() == whole + tail
    with caplog.at_level(logging.WARNING, "tglo"):
        log = RatingLog(path)
    assert f"within a line of {len(tail)} bytes" in caplog.text
    log.append(events()[:1])
    assert path.read_bytes().startswith(whole) and len(read_log(path).events) == 2


def test_a_last_line_without_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / FILE
    RatingLog(path).append(events()[:1])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    RatingLog(path).append(events()[:1])
    assert len(read_log(path).events) == 2


def test_a_kill_while_the_log_is_begun(tmp_path: Path) -> None:
    path = tmp_path / FILE
    for start in (b"", b'{"tglo', b'{"tglo_ratings":1,"id":"12'):
        path.write_bytes(start)
        RatingLog(path).append(events()[:1])
        assert len(read_log(path).events) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("prompt,image\n", "line 1: this is no log of ratings"),
        ("mine", "this is no log of ratings by tglo; give another --output"),
        ('{"tglo_ratings":2,"id":"12345678"}\n', "version 2, and this tglo reads 1"),
        ('{"tglo_ratings":1,"id":"12345678"}\n{"kind":"rate"}\n', "line 2: .*mend that line"),
        ('{"tglo_ratings":1,"id":"12345678"}\n' + "[" * 10**5 + "\n", "line 2"),
    ],
)
def test_what_is_no_log_is_left_alone(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / FILE
    path.write_text(content)
    with pytest.raises(DamagedFile, match=said):
        RatingLog(path)
    assert path.read_text() == content


def test_a_full_disk_loses_nothing(small_disk: Path) -> None:
    log, first = RatingLog(small_disk / FILE), events()[:1]
    log.append(first)
    before = log.path.read_bytes()
    fill(small_disk)
    many = [Rate(id=new_id(), rater="Ann", sample="1", stars=1) for _ in range(100)]
    for _ in range(2):
        with pytest.raises(DiskFull, match="the disk is full"):
            log.append(many)
        assert log.path.read_bytes() == before
    (small_disk / "filler").unlink()
    log.append(many)
    assert read_log(log.path).events == [*first, *many]
    log.close()


def test_a_log_that_was_removed_takes_nothing(tmp_path: Path) -> None:
    log = RatingLog(tmp_path / FILE)
    log.path.unlink()
    with pytest.raises(FileNotFoundError, match="was removed while it was in use"):
        log.append(events())


def test_names() -> None:
    assert clean_name("  Ann \t Lee ") == "Ann Lee" and clean_name("e\u0301") == "\u00e9"
    assert clean_name("<b>🙂/../</b>") == "<b>🙂/../</b>"
    assert key_of("ANN") == key_of("ann")
    for name, said in {"": "needs a name", " ": "needs a name", "a" * 65: "65 characters"}.items():
        with pytest.raises(ValueError, match=said):
            clean_name(name)
    for name in ("a\0b", "a\x1b[2J", "\u202eevil", "\ud800"):
        with pytest.raises(ValueError, match="cannot be printed"):
            clean_name(name)


def test_joiners_in_names_are_kept_and_tell_nobody_apart() -> None:
    for name in ("क्\u200dष", "क्\u200cष", "👩\u200d🎨"):
        assert clean_name(name) == name and key_of(name) != name
        assert key_of(name) == key_of(name.replace("\u200c", "").replace("\u200d", ""))
    with pytest.raises(ValueError, match="needs a name"):
        clean_name("\u200d \u200c"[:1])
    with pytest.raises(ValueError, match="cannot be printed"):
        clean_name("Ann\u200b")
