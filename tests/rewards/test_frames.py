"""Image rewards of videos: the mean or the worst of some frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tglo.data.manifest import read_manifest
from tglo.data.video import Video, write_video
from tglo.rewards.frames import OfFrames
from tglo.rewards.scoring import score_file
from tglo.settings import FrameOptions

pytest.importorskip("av", reason="videos need PyAV")


def red(images: list[Image.Image], prompts: list[str]) -> list[float]:
    return [float(np.asarray(image)[..., 0].mean()) / 10 for image in images]


def ramp(first: int, count: int) -> list[Image.Image]:
    return [Image.new("RGB", (32, 32), (10 * (first + n), 100, 100)) for n in range(count)]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = ["prompt,image"]
    for number, count in enumerate((9, 25, 1)):
        video = Video(ramp(number, count), 25.0)
        (tmp_path / f"{number}.mp4").write_bytes(write_video(video))
        lines.append(f"a ramp,{number}.mp4")
    Image.new("RGB", (32, 32), (70, 0, 0)).save(tmp_path / "image.png")
    (tmp_path / "m.csv").write_text("\n".join([*lines, "a ramp,image.png"]) + "\n")
    return tmp_path / "m.csv"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (FrameOptions(5), [4.0, 13.0, 2.0, 7.0]),
        (FrameOptions(3, "worst"), [0.0, 1.0, 2.0, 7.0]),
        (FrameOptions(1), [4.0, 13.0, 2.0, 7.0]),
    ],
)
def test_a_videos_score_is_of_its_frames(
    manifest: Path, options: FrameOptions, expected: list[float]
) -> None:
    scored = score_file(manifest, f"{__name__}:red", manifest.with_name("s.csv"), videos=options)
    assert read_manifest(scored).scores() == pytest.approx(expected, abs=0.4)


def test_scores_of_other_frames_are_not_taken(manifest: Path) -> None:
    assert OfFrames(red, 4).identity != OfFrames(red, 5).identity
    assert OfFrames(red, 4).identity != OfFrames(red, 4, "worst").identity


def test_a_long_video_is_given_to_the_scorer_in_parts() -> None:
    seen: list[int] = []

    def counted(images: list[Image.Image], prompts: list[str]) -> list[float]:
        seen.append(len(images))
        return red(images, prompts)

    scorer = OfFrames(counted, 20, chunk=8)
    videos = [Video(ramp(0, 20), 25.0), Video(ramp(4, 1), 25.0)]
    assert scorer(videos, ["a", "b"]) == pytest.approx([9.5, 4.0])
    assert seen == [8, 8, 5]


def test_a_broken_video_is_a_row_that_cannot_be_scored(manifest: Path) -> None:
    manifest.with_name("1.mp4").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"line 3: 1\.mp4: cannot be decoded"):
        score_file(manifest, f"{__name__}:red", manifest.with_name("s.csv"))
