"""Videos that are folders of frames: which files, in which order, at which rate."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tglo.data.errors import ImageError, ManifestError
from tglo.data.frames import FrameFolder, natural, rate_of
from tglo.data.manifest import Manifest, read_manifest
from tglo.data.video import Clip, about, read_clip
from tglo.data.video_views import read_frames

RATES = [(8, 8.0), ("12.5", 12.5), (" 24 ", 24.0), (29.97, 29.97)]


def frames(
    folder: Path, count: int, name: str = "{}.png", size: tuple[int, int] = (48, 32)
) -> Path:
    """Write frames whose red level in tens is their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", size, (10 * number, 100, 100)).save(folder / name.format(number))
    return folder


def levels(pictures: Any) -> list[int]:
    return [round(float(np.asarray(picture)[..., 0].mean()) / 10) for picture in pictures]


def manifest(folder: Path, *images: str, rate: str | None = None) -> Manifest:
    lines = ["prompt,image" + ("" if rate is None else ",frame_rate")]
    lines += [f"a bar,{image}" + ("" if rate is None else f",{rate}") for image in images]
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return read_manifest(folder / "m.csv", require_scores=False)


def clip_of(rows: Manifest, clip: Clip, row: int = 0) -> list[int]:
    with rows.open_file(rows.rows[row]) as file:
        return levels(read_clip(file, clip).frames)


def digest_of(rows: Manifest) -> str:
    with rows.open_file(rows.rows[0]) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        assert hashlib.file_digest(file, "sha256").hexdigest() == found
        return found


def test_names_are_in_natural_order() -> None:
    names = ["f10.png", "f9.png", "a.png", "f009.png", "f9b.png", "10.png", "9.png", "f9-2.png"]
    expected = ["9.png", "10.png", "a.png", "f9-2.png", "f009.png", "f9.png", "f9b.png", "f10.png"]
    assert sorted(names, key=natural) == expected


def test_a_clip_has_the_frames_at_its_times(tmp_path: Path) -> None:
    frames(tmp_path / "a", 24)
    (tmp_path / "a" / ".hidden.png").write_bytes(b"")
    (tmp_path / "a" / "sound.wav").write_bytes(b"")
    (tmp_path / "a" / "25.png").mkdir()
    rows = manifest(tmp_path, "a", "a/")
    for row in (0, 1):
        assert rows.is_video(rows.rows[row])
        assert clip_of(rows, Clip(24, 16.0), row) == list(range(24))  # as fast as the clip
    rows = manifest(tmp_path, "a", rate="32")
    assert clip_of(rows, Clip(5, 16.0, "start")) == [0, 2, 4, 6, 8]
    assert clip_of(rows, Clip(9, 16.0)) == [4, 6, 8, 10, 12, 14, 16, 18, 20]
    rows = manifest(tmp_path, "a", rate="8")
    assert clip_of(rows, Clip(5, 16.0, "start")) == [0, 0, 1, 1, 2]
    with rows.open_file(rows.rows[0]) as file:
        assert about(file).seconds == 3.0


def test_frames_for_a_score_are_even_whatever_the_rate(tmp_path: Path) -> None:
    frames(tmp_path / "a", 22, "{:03}.jpg")
    for rate in (None, "0.5", "60"):
        rows = manifest(tmp_path, "a", rate=rate)
        with rows.open_file(rows.rows[0]) as file:
            assert levels(read_frames(file, 4).frames) == [0, 7, 14, 21]


def test_only_frames_of_the_clip_are_decoded(tmp_path: Path) -> None:
    frames(tmp_path / "a", 14)
    for number in range(9, 14):
        (tmp_path / "a" / f"{number}.png").write_bytes(b"torn")
    rows = manifest(tmp_path, "a")
    assert clip_of(rows, Clip(9, 16.0, "start")) == list(range(9))
    with pytest.raises(ImageError, match=r"its frame a/9\.png: cannot be decoded"):
        clip_of(rows, Clip(13, 16.0, "start"))


def test_the_digest_is_of_rate_names_and_bytes(tmp_path: Path) -> None:
    folder = frames(tmp_path / "a", 3)
    found = {digest_of(manifest(tmp_path, "a")), digest_of(manifest(tmp_path, "a", rate="8"))}
    (folder / "2.png").rename(folder / "3.png")
    found.add(digest_of(manifest(tmp_path, "a")))
    frames(folder, 1, "3.png")
    found.add(digest_of(manifest(tmp_path, "a")))
    assert len(found) == 4


def test_what_is_no_folder_of_frames(tmp_path: Path) -> None:
    frames(tmp_path / "a" / "b", 2)
    (tmp_path / "empty").mkdir()
    frames(tmp_path / "sizes", 4)
    frames(tmp_path / "sizes", 1, "3.png", (32, 32))
    rows = manifest(tmp_path, "a", "empty", "sizes", "a/b")
    for row in (0, 1):
        with pytest.raises(
            ImageError, match="a folder without frames.*itself, not in other folders"
        ):
            clip_of(rows, Clip(2, 16.0), row)
    with pytest.raises(
        ImageError, match=r"several sizes: sizes/0\.png of 48 x 32 .*3\.png of 32 x 32"
    ):
        clip_of(rows, Clip(4, 16.0), 2)
    with pytest.raises(ImageError, match="shorter than the clip of 9 frames.*2 were found"):
        clip_of(rows, Clip(9, 16.0), 3)
    with pytest.raises(ImageError, match="it is a folder, which is the frames of a video"):
        rows.open_image(rows.rows[3])


def test_frames_lie_within_the_root(tmp_path: Path) -> None:
    frames(tmp_path / "elsewhere", 1)
    frames(tmp_path / "data" / "a", 1)
    (tmp_path / "data" / "a" / "1.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    rows = manifest(tmp_path / "data", "a", "b")
    for row in (0, 1):
        with pytest.raises(ManifestError, match="a link out of the data folder"):
            clip_of(rows, Clip(2, 16.0), row)
    with pytest.raises(ManifestError, match=r"climbs with '\.\.'"):
        manifest(tmp_path / "data", "../elsewhere")


@pytest.mark.parametrize(("cell", "rate"), [*RATES, (None, None), ("", None), (float("nan"), None)])
def test_rates_of_a_row(cell: Any, rate: float | None) -> None:
    assert rate_of({"frame_rate": cell}) == rate


@pytest.mark.parametrize("cell", ["fast", 0, -1, "1001", float("inf"), True, [3]])
def test_what_is_no_rate_is_refused(cell: Any) -> None:
    with pytest.raises(ImageError, match=r"its frame_rate is .*from 0.01 to 1000, or empty"):
        rate_of({"frame_rate": cell})


def test_a_folder_that_is_given_as_the_manifest_is_no_video(tmp_path: Path) -> None:
    """A manifest's own folder holds tars or a saved data set; folders of frames are named by rows."""
    frames(tmp_path / "a", 2)
    for folder in (tmp_path, tmp_path / "a"):
        with pytest.raises(
            ManifestError, match=r"none has its prompt.*metadata\.csv.*folder of frames.*one video"
        ):
            read_manifest(folder)


def test_a_folder_is_read_from_its_start() -> None:
    with pytest.raises(OSError, match="read from its start"):
        FrameFolder(["a"], None, None).seek(3)  # type: ignore[arg-type]
