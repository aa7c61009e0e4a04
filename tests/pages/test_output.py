"""A page takes the place of an earlier page, and of nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tglo.pages.output import check_page


def test_what_a_page_may_replace(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("\n<!DOCTYPE html>\n<title>x</title>")
    (tmp_path / "empty").touch()
    for path in (tmp_path / "new.html", tmp_path / "no/such/x", tmp_path / "empty"):
        check_page(path, "--output", "look.html")
    check_page(tmp_path / "page.html", "--output", "look.html")
    check_page(Path(os.devnull), "--output", "look.html")


@pytest.mark.parametrize("content", [b"prompt,image,score\n", b"\xff\x00", b'{"step": 1}\n'])
def test_other_files_stay(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"m.csv is there and is no page.* such as .*m.html"):
        check_page(tmp_path / "m.csv", "--output", "look.html")


def test_a_folder_is_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"--report \. is a folder; .*such as report.html"):
        check_page(Path("."), "--report", "report.html")
