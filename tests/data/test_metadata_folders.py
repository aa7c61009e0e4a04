"""Image folders with a metadata file, as Hugging Face has them."""

from __future__ import annotations

import json
import logging

import pytest

from tests.data.test_manifest import png
from tglo.data.errors import ManifestError
from tglo.data.manifest import read_manifest

ROWS = [("a.png", "a cat", 1.5), ("sub/b.jpg", "a dog", -2.0)]
NAMES = {"prompt_column": "text", "score_column": "stars"}


def make(folder, suffix="csv", rows=ROWS):
    for n, (name, *_) in enumerate(ROWS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(n))
    path = folder / f"metadata.{suffix}"
    cells = [dict(zip(("file_name", "text", "stars"), row, strict=True)) for row in rows]
    if suffix == "csv":
        lines = [",".join(map(str, row)) for row in rows]
        path.write_text("\n".join(["file_name,text,stars", *lines]) + "\n")
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in cells))
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(cells), path)
    return folder


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_folder_and_its_file_are_one_manifest(tmp_path, suffix):
    make(tmp_path, suffix)
    manifest = read_manifest(tmp_path, **NAMES)
    assert manifest.prompts() == ["a cat", "a dog"] and manifest.scores().tolist() == [1.5, -2]
    assert [manifest.open_image(row) for row in manifest] == [png(0), png(1)]
    assert read_manifest(tmp_path / f"metadata.{suffix}", **NAMES).sha256 == manifest.sha256
    with pytest.raises(
        ManifestError, match=r"no column 'prompt' .*\['file_name', 'text', 'stars'\]"
    ):
        read_manifest(tmp_path)
    with pytest.raises(ManifestError, match="no column 'photo' for the image"):
        read_manifest(tmp_path, **NAMES, image_column="photo")


def test_the_metadata_of_the_only_split(tmp_path):
    make(tmp_path / "train")
    manifest = read_manifest(tmp_path, **NAMES)
    assert [row.image for row in manifest] == ["train/a.png", "train/sub/b.jpg"]
    assert [manifest.open_image(row) for row in manifest] == [png(0), png(1)]
    make(tmp_path / "test")
    with pytest.raises(
        ManifestError, match=r"test/metadata\.csv, train/metadata\.csv\. Give one, as"
    ):
        read_manifest(tmp_path, **NAMES)
    assert len(read_manifest(tmp_path / "test", **NAMES)) == 2


def test_names_that_are_not_there_and_images_that_are_not_named(tmp_path, caplog):
    make(tmp_path, rows=[("A.png", "a cat", 1), ("sub/b.jpg", "a dog", "good"), ("a.png", "a", 2)])
    (tmp_path / "c.png").write_bytes(png())
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path, **NAMES)
    text = str(caught.value)
    assert "2 of 3 rows" in text
    assert f"metadata.csv, line 2: names A.png, which is not in {tmp_path}" in text
    assert "metadata.csv, line 3: the score is 'good', not a number" in text
    make(tmp_path)
    with caplog.at_level(logging.WARNING, "tglo"):
        read_manifest(tmp_path, **NAMES)
    assert "1 images are not in metadata.csv and are not used, c.png for one" in caplog.text


def test_two_metadata_files(tmp_path):
    make(make(tmp_path), "jsonl")
    with pytest.raises(ManifestError, match=r"has metadata\.csv and metadata\.jsonl: leave one"):
        read_manifest(tmp_path, **NAMES)


def test_a_named_link_out_of_the_folder(tmp_path):
    folder = make(tmp_path / "data")
    (folder / "a.png").rename(tmp_path / "a.png")
    (folder / "a.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(ManifestError, match=r"metadata\.csv, line 2: 'a\.png' is a link out of"):
        read_manifest(folder, **NAMES)
    manifest = read_manifest(folder, **NAMES, root=tmp_path)
    assert manifest.open_image(manifest.rows[0]) == png(0)


def test_a_folder_of_frames_may_be_named(tmp_path):
    make(tmp_path, rows=[("sub", "a clip", 1), ("a.png", "a cat", 2)])
    manifest = read_manifest(tmp_path, **NAMES)
    assert manifest.is_video(manifest.rows[0]) and not manifest.is_video(manifest.rows[1])


def test_file_name_comes_before_a_column_image(tmp_path):
    make(tmp_path)
    path = tmp_path / "metadata.csv"
    path.write_text("image,file_name,text,stars\n17,a.png,a cat,1\n18,sub/b.jpg,a dog,2\n")
    assert [row.image for row in read_manifest(tmp_path, **NAMES)] == ["a.png", "sub/b.jpg"]
