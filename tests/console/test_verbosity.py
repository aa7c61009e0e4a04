"""-v, -q, bars that need a terminal, and --json on a standard output of its own."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from PIL import Image

from tests import preloaded, tiny
from tglo import cli
from tglo.console.json_output import as_json
from tglo.console.verbosity import take


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    lines = ["prompt,image,score"]
    for number in range(4):
        Image.new("RGB", (16, 16), (60 * number,) * 3).save(folder / f"{number}.png")
        lines.append(f"grey,{number}.png,{number / 4}")
    (folder / "m.csv").write_text("\n".join(lines))
    return folder / "m.csv"


@pytest.mark.parametrize(
    ("given", "left", "verbosity"),
    [
        (["score", "-v", "m.csv"], ["score", "m.csv"], "verbose"),
        (["-q", "score", "m.csv"], ["score", "m.csv"], "quiet"),
        (["score", "--quiet", "--verbose"], ["score"], "verbose"),
        (["score", "--", "-v"], ["score", "--", "-v"], "normal"),
    ],
)
def test_flags_stand_anywhere(
    given: list[str], left: list[str], verbosity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TGLO_DEBUG", raising=False)
    assert take(given) == (left, verbosity)


def run_on_a_terminal(
    *arguments: str, popen: type[subprocess.Popen[str]] = subprocess.Popen
) -> tuple[int, str]:
    """Run tglo with standard error on a pseudo-terminal; returns status and what was seen there."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TQDM_", "HF_HUB_DIS"))}
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    process = popen(
        [sys.executable, "-m", "tglo", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=end,
        env=environment,
    )
    os.close(end)
    seen = b""
    try:
        while part := os.read(terminal, 4096):
            seen += part
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    return process.wait(60), seen.decode()


def test_bars_are_for_terminals(manifest: Path, tmp_path: Path) -> None:
    """Of tglo and of the libraries that load a model, which ask when they are imported whether to show any."""
    tiny.build_sd15(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a temple\na flower\n")
    generate = ["generate", "--model", str(tmp_path / "model"), "--steps", "1", "--device", "cpu",
                "--prompts", str(tmp_path / "prompts.txt")]  # fmt: skip
    status, seen = run_on_a_terminal(
        *generate, "--output", str(tmp_path / "a"), popen=preloaded.Popen
    )
    assert status == 0 and "samples" in seen and "100%" in seen, seen
    status, seen = run_on_a_terminal(*generate, "--output", str(tmp_path / "b"), "-q")
    assert (status, seen) == (0, "")
    done = subprocess.run(
        [sys.executable, "-m", "tglo", *generate, "--output", str(tmp_path / "c")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "%" not in done.stderr and "it/s" not in done.stderr


def test_quiet_leaves_results_and_nothing_else(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "threshold.json"
    command = ["threshold", str(manifest), "--output", str(output)]
    assert cli.main(command) == 0
    assert f"wrote {output}" in capsys.readouterr().out
    assert cli.main([*command, "-q"]) == 0
    captured = capsys.readouterr()
    assert "positive" in captured.out and "wrote" not in captured.out and not captured.err


def test_json_is_alone_on_standard_output(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, scored = tiny.build_sd15(tmp_path / "model"), tmp_path / "scored.csv"
    (tmp_path / "p.txt").write_text("a temple\na flower\n")
    capsys.readouterr()  # what building the model said

    def run(*arguments: str) -> dict[str, object]:
        assert cli.main([*arguments, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert isinstance(found, dict)
        return found

    threshold = run("threshold", str(manifest), "--output", str(tmp_path / "t.json"))
    assert threshold["threshold"] == 0.375 and threshold["positives"] == 2
    score = run("score", str(manifest), "--scorer", "ink", "--output", str(scored), "--root",
                str(manifest.parent))  # fmt: skip
    assert score == {"output": str(scored), "scorers": ["ink"], "complete": True}
    cache = run("cache", "--model", str(model), "--manifest", str(manifest), "--output",
                str(tmp_path / "cache"), "--resolution", "16", "--device", "cpu")  # fmt: skip
    assert cache["complete"] is True and cache["latents"]["samples"] == 4  # type: ignore[index]
    doctor = run("doctor")
    assert {"name", "status", "detail", "remedy"} == set(doctor["findings"][0])  # type: ignore[index]
    evaluation = run(
        "evaluate", "--base", str(model), "--prompts", f"mine={tmp_path}/p.txt", "--scorers", "ink",
        "--count", "1", "--steps", "1", "--device", "cpu", "--output", str(tmp_path / "e"),
    )  # fmt: skip
    assert evaluation["complete"] is True and evaluation["prompt_sets"]


def test_json_says_inf_and_nan_as_json_can() -> None:
    assert json.loads(as_json({"a": float("inf"), "b": [float("nan")], "c": Path("x")})) == {
        "a": "inf",
        "b": [None],
        "c": "x",
    }


def test_version_and_module(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib import metadata

    from tglo.console.versions import installed
    from tglo.ops import EXTENSION

    assert cli.main(["--version"]) == 0
    line = capsys.readouterr().out
    built = "extension built" if EXTENSION.loaded else "extension not built"
    assert line.startswith(f"tglo {installed()} (torch {metadata.version('torch')}, diffusers ")
    assert line.endswith(f"{built})\n")
    module = [sys.executable, "-m", "tglo", "--version"]
    assert subprocess.run(module, capture_output=True, text=True, timeout=60).stdout == line
