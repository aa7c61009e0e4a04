"""What is mistyped is named with the nearest; status 2, and one line."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from tglo import cli
from tglo.console import parsing


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sccore"], "there is no command 'sccore' (did you mean score?)"),
        (["xyz"], "there is no command 'xyz'; tglo --help lists them"),
        (["--verson"], "tglo has no flag --verson (did you mean --version?)"),
        (["threshold", "--percentil", "3", "m.csv"], "no flag --percentil (did you mean --perc"),
        (
            ["score", "m.csv", "--scorr=ink"],
            "tglo score has no flag --scorr (did you mean --scorer",
        ),
        (["cache", "--batch_sise", "3"], "no flag --batch_sise (did you mean --batch-size?)"),
        (["plan", "--zzz", "3"], "tglo plan has no flag --zzz; tglo plan --help lists"),
        (["train", "--optimizer.learning-rte", "1"], "(did you mean --optimizer.learning-rate?)"),
        (["train", "--learning-rate", "1"], "(did you mean --optimizer.learning-rate?)"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_nearest(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert said in error and error.startswith("tglo: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["threshold", "m.csv", "--percentile", "x"], "could not convert string to float"),
        (["threshold", "m.csv", "--baseline", "median"], "invalid choice|Invalid"),
        (["score"], "Missing from tglo score: PATH|PATH"),
        ([], "train a grid of settings"),
    ],
)
def test_a_wrong_value_or_a_missing_flag_is_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    captured = capsys.readouterr()
    assert stop.value.code == 2 and not captured.out
    assert re.search(said, " ".join(captured.err.split()), re.IGNORECASE), captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_lists_the_common_flags(name: str) -> None:
    flags = parsing.flags_of(parsing.read_only(cli.COMMANDS[name]), f"tglo {name}")
    assert {"--help", "-v", "--verbose", "-q", "--quiet"} <= set(flags)
    results = (
        *("threshold", "look", "score", "rate", "cache", "plan"),
        *("doctor", "evaluate", "export", "push"),
    )
    assert ("--json" in flags) == (name in results)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_flags(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tglo", "--tyro-print-completion", shell],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for word in (*cli.COMMANDS, "percentile", "optimizer.learning-rate", "score-scale"):
        assert word in done.stdout
    if shutil.which(shell):  # its syntax
        checked = subprocess.run([shell, "-n"], input=done.stdout, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
