"""`tglo cache`: from flags and from a run's file, and what is there already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests import tiny, tiny_video
from tests.commands.conftest import RUN
from tglo import cli, models
from tglo.cache.format import choose_buckets
from tglo.cache.resolution import resolution_for
from tglo.commands.cache import flags_of
from tglo.files import read_json
from tglo.train import TrainConfig, load_config


def test_a_runs_file_answers_the_flags_of_cache(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").symlink_to(work / "model")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    (tmp_path / "m.csv").write_text("caption,image,score\na red square,red.png,1\n")
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
        "--prompt-column", "caption", "--precision", "bf16", "--weights", "half", "--attention", "sdpa", *flags,
    ]  # fmt: skip
    assert cli.main(command) == 0, capsys.readouterr().err
    assert "0 shards written" in capsys.readouterr().out


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


def test_flags_that_a_runs_file_answers(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUN.format(work="./w", objective="csft"))
    flags = flags_of(load_config(path))
    assert flags["markers"] == ("good image: ", "bad image: ") and not flags["reference"]
    assert flags["forward"].weights == "half" and "draws" not in flags
    assert flags_of(TrainConfig()).keys() == {
        *("device", "loading", "reading", "reference", "seed", "caption_dropout", "timesteps", "noise", "draws_of"),
        "forward",
    }  # fmt: skip


def test_changed_images_and_rows_with_their_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.build_sd15(tmp_path / "model")
    for number, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{number}.png")
    command = [
        "cache", "--model", str(model), "--manifest", str(tmp_path / "m.csv"), "--resolution", "16",
        "--output", str(tmp_path / "cache"), "--device", "cpu", "--reference", "--draws", "1",
    ]  # fmt: skip

    def run(count: int) -> str:
        rows = [f"a square,{number}.png" for number in range(count)]
        (tmp_path / "m.csv").write_text("\n".join(["prompt,image", *rows]))
        assert cli.main(command) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    assert "3 images and 2 prompts; 3 images encoded" in run(3)
    assert "encoded" not in run(3)  # the latents are not looked at any more
    Image.new("RGB", (16, 16), "black").save(tmp_path / "1.png")
    output = run(3)
    assert "1 images encoded" in output and "3 samples; 1 shards written, 0 kept" in output
    output = run(4)
    assert "1 images encoded" in output and "4 samples; 1 shards written, 1 kept" in output
    output = run(2)
    assert "2 images and 2 prompts; 0 images encoded" in output
    assert "2 samples; 0 shards written, 1 kept" in output
    assert "encoded" not in run(2)


def test_the_models_own_resolution_unless_one_is_asked_for_or_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny.build_sd15(tmp_path / "model")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    (tmp_path / "m.csv").write_text("prompt,image\na red square,red.png\n")

    def run(output: str, *flags: str) -> str:
        command = ["cache", "--model", str(model), "--manifest", str(tmp_path / "m.csv"), *flags]
        caplog.clear()
        where = ["--output", str(tmp_path / output), "--device", "cpu", "--no-buckets"]
        assert cli.main([*command, *where]) == 0, capsys.readouterr().err
        return str(read_json(tmp_path / output / "fingerprint.json")["resolution"])

    own = str(2 * json.loads((model / "unet/config.json").read_text())["sample_size"])
    assert run("own") == own
    assert f"resolution {own} (--resolution): the model was trained on" in caplog.messages[0]
    assert run("asked", "--resolution", "24") == "24"
    # As a cache that was made when the default was another, and a reference cache beside it.
    for flags in ((), ("--reference", "--draws", "1")):
        assert run("asked", *flags) == "24"
    assert not any("resolution" in message for message in caplog.messages)  # complete already


def test_the_square_of_a_models_own_size_holds_it(tmp_path: Path) -> None:
    family = models.load(tiny_video.build_wan(tmp_path / "wan"), denoiser=False)
    side = resolution_for(family, tmp_path / "cache")
    assert family.default_size in choose_buckets(family, side, True)
