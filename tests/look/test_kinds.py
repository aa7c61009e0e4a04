"""Images inside files, folders with captions, and videos."""

from __future__ import annotations

import base64
import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.data.test_manifest import png
from tests.look.conftest import write
from tglo.data.manifest import read_manifest
from tglo.data.video import Video, write_video
from tglo.look import Findings, survey
from tglo.look.page import render
from tglo.look.sizes import size_of
from tglo.look.thumbnails import SIDE, thumbnail
from tglo.train import TrainConfig

IMAGES = [png(0, (32, 32)), png(90, (64, 32)), png(0, (32, 32)), b"broken"]


def as_parquet(folder: Path) -> Path:
    cells = [{"bytes": image, "path": f"{n}.png"} for n, image in enumerate(IMAGES)]
    columns = {"prompt": ["a", "b", "a", "d"], "image": cells, "score": [1.0, 2.0, 3.0, 4.0]}
    pq.write_table(pa.table(columns), folder / "data.parquet")
    return folder / "data.parquet"


def as_tar(folder: Path) -> Path:
    with tarfile.open(folder / "data.tar", "w") as tar:
        for n, image in enumerate(IMAGES):
            for name, data in (
                (f"{n}.png", image),
                (f"{n}.txt", b"abad"[n : n + 1]),
                (f"{n}.score", b"%d" % n),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return folder / "data.tar"


def as_folder(folder: Path) -> Path:
    for n, image in enumerate(IMAGES):
        (folder / f"{n}_{n}.5.png").write_bytes(image)
        (folder / f"{n}_{n}.5.txt").write_text("abad"[n])
    return folder


@pytest.mark.parametrize("kind", [as_parquet, as_tar, as_folder])
def test_every_kind_of_manifest(kind, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pattern = "*_{score}" if kind is as_folder else None
    manifest = read_manifest(kind(tmp_path), require_scores=False, score_pattern=pattern)
    found: Findings = survey(manifest, TrainConfig(), resolution=32)
    assert found.presence.missing == 0 and found.sizes.unreadable == 1
    assert (found.sizes.smallest, found.sizes.largest) == ((32, 32), (32, 64))
    assert (found.contents.compared, found.contents.identical, found.contents.conflicts) == (
        4,
        1,
        1,
    )
    html = render(manifest, found)
    assert html.count("data:image/png") >= 6 and html.count("cannot be shown") >= 2


def test_images_are_turned_upright_and_made_small(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (800, 400), "red").save(tmp_path / "a.jpg", exif=exif)
    manifest = read_manifest(write(tmp_path, [("a", "a.jpg", 1), ("b", "b.jpg", 2)]))
    assert size_of(manifest, manifest.rows[0]) == (800, 400)
    found = thumbnail(manifest, manifest.rows[0])
    assert found.source.startswith("data:image/jpeg;base64,") and not found.small
    assert thumbnail(manifest, manifest.rows[1]).problem.startswith("b.jpg: cannot be read")
    assert SIDE == 256 and len(found.source) < 4000


def test_a_video_file_shows_the_frame_in_its_middle(tmp_path: Path) -> None:
    pytest.importorskip("av")
    frames = [Image.new("RGB", (320, 160), colour) for colour in ("red", "lime", "blue")]
    (tmp_path / "a.mp4").write_bytes(write_video(Video(frames, 8.0)))
    manifest = read_manifest(write(tmp_path, [("a", "a.mp4", 1), ("b", "b.mp4", 2)]))
    assert size_of(manifest, manifest.rows[0]) == (160, 320)
    found = thumbnail(manifest, manifest.rows[0])
    image = Image.open(io.BytesIO(base64.b64decode(found.source.partition(",")[2])))
    red, green, blue = image.getpixel((100, 50))  # type: ignore[misc]
    assert found.video and image.size == (256, 128) and green > 200 and red < 60 and blue < 60


def test_a_folder_of_frames_shows_one(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for n in range(3):
        (tmp_path / "clip" / f"{n}.png").write_bytes(png(100 * n, (48, 32)))
    manifest = read_manifest(write(tmp_path, [("a", "clip", 1), ("b", "clip.mp4", 2)]))
    assert size_of(manifest, manifest.rows[0]) == (32, 48)
    assert thumbnail(manifest, manifest.rows[0]).video
    assert thumbnail(manifest, manifest.rows[0]).source.startswith("data:image/png")
    assert "clip.mp4" in thumbnail(manifest, manifest.rows[1]).problem
    assert survey(manifest, TrainConfig()).presence.missing_shown == ["clip.mp4"]
