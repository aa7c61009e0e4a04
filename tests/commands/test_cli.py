"""The commands one after another on files, as a user runs them, and what errors look like."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import SafetensorError

from tglo import cli

CONFIG = """
[model]
path = "{work}/model"
[data]
manifest = "{work}/images/scored.csv"
cache = "{work}/cache"
threshold = "{work}/threshold.json"
[objective]
temperature = 0.1
[optimizer]
steps = 2
micro_batch = 2
learning_rate = 1e-2
[engine]
device = "cpu"
kind = "plain"
[output]
folder = "{work}/run"
progress = false
"""


def test_from_prompts_to_an_aligned_model(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> str:
        status = cli.main(list(arguments))
        captured = capsys.readouterr()
        assert status == 0, captured.err
        return captured.out

    (work / "my_scorer.py").write_text(
        "import numpy as np\n"
        "def brightness(images, prompts):\n"
        "    return [np.asarray(image).mean() / 255 for image in images]\n"
    )
    monkeypatch.chdir(work)
    sampling = ["--steps", "2", "--guidance", "1", "--device", "cpu"]
    prompts = str(work / "prompts.txt")
    common = ["generate", "--model", "./model", "--prompts", prompts, *sampling]
    run(*common, "--output", "images", "--count", "4")
    with (work / "images" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and {row["prompt"] for row in rows} == {"a temple", "a flower"}

    run("score", "images/manifest.csv", "--scorer", "my_scorer:brightness",
        "--output", "images/scored.csv")  # fmt: skip
    with (work / "images" / "scored.csv").open(newline="") as file:
        scored = list(csv.DictReader(file))
    first = np.asarray(Image.open(work / "images" / scored[0]["image"]).convert("RGB"))
    assert float(scored[0]["score"]) == pytest.approx(first.mean() / 255)

    assert "positive" in run("threshold", "images/scored.csv", "--output", "threshold.json")
    run("cache", "--model", "./model", "--manifest", "images/scored.csv", "--output", "cache",
        "--resolution", "16", "--device", "cpu")  # fmt: skip
    (work / "run.toml").write_text(CONFIG.format(work=work))
    assert "2 steps done" in run("train", "run.toml")
    assert "2 draws of 8 samples" in run(
        "cache", "run.toml", "--resolution", "16", "--reference", "--draws", "2"
    )
    assert "2 steps done" in run(
        "train", "run.toml", "--objective.reference", "cached", "--output.folder", "cached"
    )
    assert "wrote" in run("export", "run", "--output", "again")
    for lora in ("run/export", "again"):
        run(*common, "--output", f"{lora}-images", "--lora", lora)
    pictures = [
        np.asarray(Image.open(work / folder / scored[0]["image"])).astype(int)
        for folder in ("images", "run/export-images", "again-images")
    ]
    report = run(
        "evaluate", "--base", "./model", "--models", "tgo=./run/export", "--prompts",
        "mine=prompts.txt", "--scorers", "my_scorer:brightness", "ink", "--trained-on",
        "my_scorer:brightness", "--count", "2", "--output", "evaluation", *sampling,
    )  # fmt: skip
    assert "win rate against base" in report and "†" in report
    assert (work / "evaluation" / "report.html").is_file()
    assert np.abs(pictures[0] - pictures[1]).max() > 0
    assert np.array_equal(pictures[1], pictures[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "absent.toml"], "config file absent.toml does not exist"),
        (["threshold", "absent.csv"], "absent.csv"),
        (["score", "absent.csv", "--scorer", "ink"], "absent.csv"),
        (["export", "nowhere", "--output", "x"], "not a run's output folder"),
    ],
)
def test_errors_are_one_line_and_a_status(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert message in error and "Traceback" not in error


class Panic(BaseException):
    """As Rust libraries raise: no Exception."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            SafetensorError("header too\n  large"),
            "SafetensorError: header too large (an error that",
        ),
        (KeyError("unet"), "KeyError: 'unet' (an error that was not foreseen; -v shows where"),
        (AssertionError(), "AssertionError: no message (an error that was not foreseen"),
        (Panic("index out of bounds"), "Panic: index out of bounds (an error that"),
        (MemoryError(), "MemoryError: no message"),
        (ValueError("steps is 0"), "steps is 0"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_comes_is_one_line(
    error: BaseException,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("tglo.plan.planner.plan", fail)
    assert cli.main(["plan"]) == 1
    text = capsys.readouterr().err
    assert text.startswith(f"tglo: {said}") and text.count("\n") == 1
    assert ("not foreseen" in text) == (not isinstance(error, ValueError))
    for arguments in (["plan", "-v"], ["--verbose", "plan"]):
        assert cli.main(arguments) == 1
        assert "Traceback" in (text := capsys.readouterr().err) and "in fail" in text
    monkeypatch.setenv("TGLO_DEBUG", "1")
    assert cli.main(["plan"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_wrong_key_on_the_command_line_names_the_file_and_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_text("[optimizer]\nlearning_rte = 1e-5\n")
    assert cli.main(["train", str(tmp_path / "run.toml")]) == 1
    error = capsys.readouterr().err
    assert "run.toml: unknown key optimizer.learning_rte; nearest: learning_rate" in error


def test_generate_takes_its_share_of_the_images_from_the_launcher(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        "generate", "--model", str(work / "model"), "--prompts", str(work / "prompts.txt"),
        "--output", str(tmp_path), "--steps", "1", "--batch-size", "1", "--device", "cpu",
    ]  # fmt: skip
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, said in ((1, "process 1 is done"), (0, f"wrote {tmp_path / 'manifest.csv'}")):
        monkeypatch.setenv("RANK", str(rank))
        assert cli.main(command) == 0
        assert said in capsys.readouterr().out
    assert len(list((tmp_path / "images").iterdir())) == 2


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)
