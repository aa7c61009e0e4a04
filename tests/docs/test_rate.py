"""docs/rate.md: its commands run as they stand, on a few images and a tiny model; a person's part is played."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests import tiny
from tests.rate.conftest import make_manifest, stars
from tglo import cli
from tglo.data.manifest import read_manifest
from tglo.rate.folder import folder_of
from tglo.rate.log import FILE, RatingLog

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "rate.md").read_text()
SMALLER = {"cache": ["--resolution", "16"], "train": ["--optimizer.steps", "2"]}


def commands() -> list[str]:
    blocks = "".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL))
    return re.findall(r"^\$ (tglo .*)$", blocks, re.MULTILINE)


def rated_by_a_person(manifest: Path) -> None:
    rows = read_manifest(manifest, require_scores=False)
    folder = folder_of(manifest)
    folder.mkdir(exist_ok=True)
    log = RatingLog(folder / FILE)
    for number, name in enumerate(("Ann", "Bob")):
        log.append([stars(rows, row, (row + number) % 5 + 1, name) for row in range(len(rows))])
    log.close()


def test_the_commands_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_manifest(tmp_path / "data").rename("data/manifest.csv")
    (settings,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "run.toml").write_text(settings)
    tiny.build_sdxl(tmp_path / "sdxl")
    ran = []
    for command in commands():
        words = shlex.split(command, comments=True)[1:]
        if words[0] == "rate" and "--export" not in words:
            rated_by_a_person(Path(words[1]))
            words += ["--export", "discarded.csv"]  # its other flags are read
        assert cli.main([*words, *SMALLER.get(words[0], [])]) == 0, capsys.readouterr().err
        ran.append(words[0])
    assert (tmp_path / "rated-run/export").is_dir()
    assert ran == ["rate", "rate", "look", "cache", "train", "rate"]


def test_what_the_page_says_of_keys_and_columns() -> None:
    script = (ROOT / "tglo/pages/templates/rate.js").read_text()
    for key in ("s", "u", "Backspace", "p", " "):
        assert f'event.key === "{key}"' in script
    for word in ("`ratings`", "`spread`", "rating-log.jsonl", "8421", "2048", "160 frames"):
        assert word in PAGE
