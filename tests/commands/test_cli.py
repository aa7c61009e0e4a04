"""The commands one after another on files, as a user runs them, and what errors look like."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tglo import cli
from tglo.commands import cache, plan
from tglo.files import read_json
from tglo.train import TrainConfig, load_config


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    tiny.build_sd15(folder / "model")
    (folder / "prompts.txt").write_text("a temple\n\na flower\n")
    return folder


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


def test_a_wrong_key_on_the_command_line_names_the_file_and_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_text("[optimizer]\nlearning_rte = 1e-5\n")
    assert cli.main(["train", str(tmp_path / "run.toml")]) == 1
    error = capsys.readouterr().err
    assert "run.toml: unknown key optimizer.learning_rte; nearest: learning_rate" in error


def test_plan_prints_a_table_or_json(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    arguments = ["plan", "--model", "./model", "--gpus", "2", "--train", "full"]
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert "recommended: ZeRO 0" in text and "zero_stage = 0" in text
    assert cli.main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["best"]["stage"] == 0 and len(answer["rows"]) == 12
    assert answer["best"]["memory"]["total"] < 80e9
    assert cli.main(["plan", "--gpus", "0"]) == 1
    assert "gpus is 0; it must be at least 1" in capsys.readouterr().err


RUN = """
seed = 3
[model]
path = "{work}/model"
train = "full"
attention = "sdpa"
gradient_checkpointing = "full"
[data]
manifest = "{work}/m.csv"
cache = "{work}/cache"
draw_seed = 7
caption_dropout = 0.5
reference_cache = "{work}/errors"
[objective]
name = "{objective}"
reference = "cached"
[optimizer]
ema_decay = 0.9
micro_batch = 2
accumulation = 3
[engine]
kind = "deepspeed"
zero_stage = 1
precision = "bf16"
"""


def test_a_runs_file_answers_the_flags_of_cache(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").symlink_to(work / "model")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    (tmp_path / "m.csv").write_text("prompt,image,score\na red square,red.png,1\n")
    path = tmp_path / "run.toml"
    path.write_text(RUN.format(work=tmp_path, objective="tgo"))
    flags = ["--resolution", "16", "--device", "cpu"]
    assert cli.main(["cache", str(path), *flags, "--draws", "1"]) == 0, capsys.readouterr().err
    assert "1 draws of 1 samples" in capsys.readouterr().out
    made = read_json(tmp_path / "errors" / "fingerprint.json")
    assert (made["seed"], made["caption_dropout"], made["precision"]) == ("7", "0.5", "bf16")
    # All of it as flags: the same cache, so nothing is made.
    command = [
        "cache", "--model", str(tmp_path / "model"), "--manifest", str(tmp_path / "m.csv"),
        "--output", str(tmp_path / "cache"), "--reference", "--reference-output",
        str(tmp_path / "errors"), "--draws", "1", "--seed", "7", "--caption-dropout", "0.5",
        "--precision", "bf16", "--weights", "half", "--attention", "sdpa", *flags,
    ]  # fmt: skip
    assert cli.main(command) == 0, capsys.readouterr().err
    assert "0 shards written" in capsys.readouterr().out


def test_what_a_runs_file_says_of_cache_and_plan(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUN.format(work="./w", objective="csft"))
    flags = cache.flags_of(load_config(path))
    assert flags["markers"] == ("good image: ", "bad image: ") and not flags["reference"]
    assert flags["forward"].weights == "half" and "draws" not in flags
    assert plan.flags_of(load_config(path))["options"].reference == "none"
    path.write_text(RUN.format(work="./w", objective="dpo"))
    options = plan.flags_of(load_config(path))["options"]
    assert (options.rows, options.accumulation, options.ema) == (4, 3, True)
    assert cache.flags_of(TrainConfig()).keys() == {
        "device", "reference", "seed", "caption_dropout", "forward"
    }  # fmt: skip


def test_plan_says_what_the_runs_own_stage_takes(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUN.format(work=work, objective="tgo"))
    assert cli.main(["plan", str(path), "--gpus", "2"]) == 0, capsys.readouterr().err
    text = capsys.readouterr().out
    assert "global batch 12 = 2 x 3 x 2 GPUs" in text
    assert "as asked: ZeRO 1, checkpointing full, " in text
    assert cli.main(["plan", str(path), "--gpus", "2", "--accumulation", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["options"]["accumulation"] == 1 and answer["asked"]["stage"] == 1
    assert cli.main(["plan", str(path)]) == 1
    assert "zero_stage 1 is not planned for with 1 GPUs" in capsys.readouterr().err


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


def test_the_reference_cache_refuses_or_mends_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.build_sd15(tmp_path / "model")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    (tmp_path / "m.csv").write_text("prompt,image\na red square,red.png\n")
    command = [
        "cache", "--model", str(model), "--manifest", str(tmp_path / "m.csv"),
        "--output", str(tmp_path / "cache"), "--device", "cpu", "--reference", "--draws", "1",
    ]  # fmt: skip
    assert cli.main([*command, "--resolution", "16"]) == 0, capsys.readouterr().err
    assert cli.main([*command, "--resolution", "24"]) == 1
    assert "resolution is '16' there and '24' here" in capsys.readouterr().err
    shard = tmp_path / "cache" / "latents-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-8])
    assert cli.main([*command, "--resolution", "16"]) == 0, capsys.readouterr().err
    assert "1 shards written" in capsys.readouterr().out
