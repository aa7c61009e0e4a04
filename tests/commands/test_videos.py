"""`tglo cache` and `tglo score` on videos, images and files that are neither."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny_flow, tiny_video
from tests.data.test_frames import frames
from tests.data.test_video import BROKEN, encoded, file_of, numbered, written
from tglo import cli
from tglo.cache.latents import LatentCache

pytest.importorskip("av", reason="videos need PyAV")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "wan": tiny_video.build_wan(folder / "wan"),
        "ltx": tiny_video.build_ltx(folder / "ltx"),
        "flux": tiny_flow.build_flux(folder / "flux"),
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good files and of faults; the first word of a row's prompt says which it is."""
    folder = tmp_path_factory.mktemp("world")
    rows = [("good", "good.mp4"), ("good", "frames"), ("good", "variable.mkv"), ("good", "odd.mov")]
    (folder / "good.mp4").write_bytes(file_of(numbered(25), 16.0).getvalue())
    frames(folder / "frames", 12)
    times = [0, 40, 80, 100, 400, 420, 500, 520, 600, 640, 700, 720]
    (folder / "variable.mkv").write_bytes(encoded(numbered(12), times))
    (folder / "odd.mov").write_bytes(
        written(numbered(12, (33, 21)), "png", "rgb24", kind="mov").getvalue()
    )
    for number, (fault, (data, _)) in enumerate(BROKEN.items()):
        (folder / f"broken{number}.mp4").write_bytes(data)
        rows.append((fault, f"broken{number}.mp4"))
    (folder / "short.mp4").write_bytes(file_of(numbered(3), 16.0).getvalue())
    Image.new("RGB", (48, 32), (70, 0, 0)).save(folder / "still.png")
    rows += [("short", "short.mp4"), ("still", "still.png"), ("missing", "missing.mp4")]
    with (folder / "m.csv").open("w") as file:
        csv.writer(file).writerows([("prompt", "image"), *rows])
    return folder


def cache(model: Path, manifest: Path, output: Path, *flags: str) -> int:
    command = ["cache", "--model", str(model), "--manifest", str(manifest), "--output", str(output)]
    return cli.main([*command, "--resolution", "32", "--device", "cpu", *flags])


def causes(output: Path) -> dict[str, str]:
    return {entry.image: entry.cause for entry in LatentCache(output).quarantined}


def test_what_is_no_clip_is_set_aside_with_the_reason(
    models: dict[str, Path], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--frames", "9", "--max-bad-fraction"]
    assert cache(models["wan"], world / "m.csv", tmp_path / "cache", *flags, "0.5") == 1
    error = capsys.readouterr().err
    assert "12 of 16 images cannot be used, above max_bad_fraction = 0.5" in error
    assert cache(models["wan"], world / "m.csv", tmp_path / "cache", *flags, "0.8") == 0
    found = causes(tmp_path / "cache")
    assert len(LatentCache(tmp_path / "cache")) == 4 and len(found) == 12
    assert "3 were found; ask for fewer" in found["short.mp4"]
    assert "it is an image or an animation" in found["still.png"]
    assert "No such file" in found["missing.mp4"]


def test_an_image_model_says_of_videos_that_they_are(
    models: dict[str, Path], world: Path, tmp_path: Path
) -> None:
    flags = ["--max-bad-fraction", "0.95"]
    assert cache(models["flux"], world / "m.csv", tmp_path / "cache", *flags) == 0
    found = causes(tmp_path / "cache")
    assert "still.png" not in found and len(found) == 15
    for name in ("good.mp4", "variable.mkv", "odd.mov"):
        assert "it is a video (M" in found[name] and "take a model of videos" in found[name]
    assert "it is a folder, which is the frames of a video" in found["frames"]


def test_a_video_above_the_cap_of_an_image_is_still_called_one(
    models: dict[str, Path], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "large.mp4").open("wb") as file:
        file.write((world / "good.mp4").read_bytes())
        file.truncate(2**27)
    (tmp_path / "m.csv").write_text("prompt,image\na,large.mp4\n")
    assert cache(models["flux"], tmp_path / "m.csv", tmp_path / "cache") == 1
    assert "large.mp4: it is a video (MP4 or MOV)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("wan", ["--frames", "12"], "frames is 12; for wan it must be a multiple of 4 plus 1: 13"),
        (
            "ltx",
            ["--frames", "9", "15"],
            "frames is 15; for ltx it must be a multiple of 4 plus 1: 17",
        ),
        ("wan", ["--frames", "0"], "frames is 0"),
        ("wan", ["--frame-rate", "0"], "frame_rate is 0.0; it must be from 0.01 to 1000"),
        ("wan", ["--frame-rate", "nan"], "frame_rate is nan; it must be from 0.01"),
        ("wan", ["--source-rate", "-1"], "source_rate is -1.0; it must be from 0.01"),
        ("flux", ["--source-rate", "8"], "are of videos, and flux makes images"),
        ("flux", ["--frames", "9"], "are of videos, and flux makes images"),
    ],
)
def test_clips_that_a_model_cannot_have(
    model: str,
    flags: list[str],
    message: str,
    models: dict[str, Path],
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cache(models[model], world / "m.csv", tmp_path / "cache", *flags) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def red(images: list[Image.Image], prompts: list[str]) -> list[float]:
    return [float(np.asarray(image)[..., 0].mean()) / 10 for image in images]


def test_score_takes_videos_folders_and_images_and_names_what_is_none(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(world, tmp_path / "data")
    command = ["score", str(data / "m.csv"), "--scorer", f"{__name__}:red", "--frames", "4"]
    assert cli.main(command) == 1
    error = capsys.readouterr().err
    assert "10 of 16 images" in error and "a file of 0 bytes" in error and "only audio" in error
    assert cli.main([*command, "--max-bad-fraction", "0.7"]) == 0
    with (data / "m-scored.csv").open() as file:
        scores = {row["image"]: float(row["score"]) for row in csv.DictReader(file)}
    assert list(scores) == [
        "good.mp4", "frames", "variable.mkv", "odd.mov", "short.mp4", "still.png",
    ]  # fmt: skip
    assert scores["still.png"] == 7 and scores["good.mp4"] == pytest.approx(12, abs=0.2)
    assert scores["frames"] == pytest.approx((0 + 3 + 7 + 11) / 4)
    assert scores["odd.mov"] == pytest.approx(scores["frames"], abs=0.1)


@pytest.mark.parametrize("command", ["cache", "score", "generate"])
def test_without_pyav_the_command_says_so_before_a_model_is_loaded(
    command: str,
    models: dict[str, Path],
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("tglo.models.load", None)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a bar\n")
    model, manifest = ["--model", str(models["wan"])], str(world / "m.csv")
    output = ["--output", str(tmp_path / "out")]
    flags = {
        "cache": [*model, "--manifest", manifest, *output],
        "score": [manifest, "--scorer", "hpsv2"],
        "generate": [*model, "--prompts", str(prompts), *output],
    }
    assert cli.main([command, *flags[command]]) == 1
    assert (
        'videos need PyAV: pip install ".[video]" in a checkout of tglo' in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_folders_of_frames_need_no_pyav(
    models: dict[str, Path], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    shutil.copytree(world / "frames", tmp_path / "frames")
    (tmp_path / "m.csv").write_text("prompt,image\na,frames\n")
    assert cache(models["wan"], tmp_path / "m.csv", tmp_path / "cache", "--frames", "9") == 0
    scored = ["score", str(tmp_path / "m.csv"), "--scorer", f"{__name__}:red"]
    assert cli.main(scored) == 0
    assert len(LatentCache(tmp_path / "cache")) == 1
