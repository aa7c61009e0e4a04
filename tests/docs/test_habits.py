"""docs/commands.md: its examples say what the commands say."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.docs.pages import text_of
from tglo.cli import main

PAGE = text_of("docs/commands.md")


def test_the_mistakes_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text("[optimizer]\nbeta = 1.0\n")
    block = PAGE.split("## Mistakes")[1].split("```console\n")[1].split("```")[0]
    pairs = re.findall(r"^\$ tglo (.+)\n(tglo: .+)$", block, re.MULTILINE)
    assert len(pairs) == 2
    for arguments, said in pairs:
        try:
            assert main(shlex.split(arguments)) == 1
        except SystemExit as stop:
            assert stop.code == 2
        assert capsys.readouterr().err.strip().splitlines()[-1] == said


def test_the_threshold_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    rows = "".join(f"a,{n}.png,{score}\n" for n, score in enumerate((0.1, 0.27, 0.4)))
    Path("data/scored.csv").write_text("prompt,image,score\n" + rows)
    command = re.search(r"^\$ tglo (threshold .*?) 2>", PAGE, re.MULTILINE)
    assert command is not None and main(shlex.split(command[1])) == 0
    assert json.loads(capsys.readouterr().out)["threshold"] == 0.27
    assert "\n0.27\n```" in PAGE


@pytest.mark.parametrize("shell", re.findall(r"--tyro-print-completion (\w+)", PAGE))
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--tyro-print-completion", shell])
    assert stop.value.code in (0, None) and "evaluate" in capsys.readouterr().out
