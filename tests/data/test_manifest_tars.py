"""Keys of webdataset tars: where they end, and what may not vanish."""

from __future__ import annotations

import logging
import tarfile

import pytest

from tests.data.test_manifest import add, png
from tglo.data.errors import ImageError, ManifestError
from tglo.data.manifest import read_manifest


def pack(path, *names):
    """A tar whose images are white and whose texts hold their own name."""
    with tarfile.open(path, "w") as tar:
        for name in names:
            is_image = name.lower().endswith(("png", "jpg"))
            content = png(9) if is_image else b"1.5" if name.endswith("score") else name.encode()
            add(tar, name, content)
    return path


def read(path):
    return read_manifest(path, require_scores=False)


def test_a_key_ends_at_the_first_dot_of_the_name(tmp_path, caplog):
    names = (
        "v1.0/7.png",
        "v1.0/7.txt",
        "v1.0/7.seg.png",
        "v1.0/8.PNG",
        "v1.0/8.txt",
        "v1.0/8.score",
    )
    with caplog.at_level(logging.WARNING, "tglo"):
        manifest = read(pack(tmp_path / "x.tar", *names))
    assert [row.image for row in manifest] == ["x.tar#v1.0/7.png", "x.tar#v1.0/8.PNG"]
    assert [row.score for row in manifest] == [None, 1.5]
    assert "images that are not used: 1, v1.0/7.seg.png for one" in caplog.text


@pytest.mark.parametrize(
    "names",
    [
        ("0.5_x.jpg", "0.5_x.txt"),
        ("0.jpg", "0.txt", "0.5_x.jpg", "0.5_x.txt"),  # was hidden by the sample 0
        ("a/0.jpg", "a/0.txt", "a/0.5_x.png", "a/0.5_x.json"),
    ],
)
def test_a_sample_with_a_dot_in_its_name_does_not_vanish(tmp_path, names):
    with pytest.raises(ManifestError, match=r"0\.5_x looks like a sample of its own.*rename"):
        read(pack(tmp_path / "x.tar", *names))


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "avif", "AVIF"])
def test_images_of_every_suffix_are_found(tmp_path, suffix):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, f"1.{suffix}", png(9))
        add(tar, "1.txt", b"a cat")
    assert [row.image for row in read(path)] == [f"x.tar#1.{suffix}"]


def test_two_members_of_one_name_are_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"x\.tar holds '1\.png' twice"):
        read(pack(tmp_path / "x.tar", "1.png", "1.txt", "2.png", "2.txt", "1.png"))


def test_two_members_that_differ_in_case_are_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"sample '1': has '1\.png' and '1\.PNG'; leave one"):
        read(pack(tmp_path / "x.tar", "1.png", "1.txt", "1.PNG"))


def test_the_members_of_a_key_may_lie_apart(tmp_path):
    manifest = read(pack(tmp_path / "x.tar", "1.png", "2.png", "2.txt", "1.txt"))
    assert manifest.prompts() == ["1.txt", "2.txt"]


def test_files_without_a_key_are_no_samples(tmp_path):
    names = ("README", ".DS_Store", "._1.png", "a/._1.txt", "1.png", "1.txt")
    assert [row.image for row in read(pack(tmp_path / "x.tar", *names))] == ["x.tar#1.png"]


def test_the_cap_on_bytes_holds_inside_of_tars_and_arrow_files(tmp_path):
    manifest = read(pack(tmp_path / "x.tar", "1.png", "1.txt"))
    with pytest.raises(ImageError, match=r"bytes are above the cap of 10 \(max_bytes\)"):
        manifest.open_image(manifest.rows[0], max_bytes=10)
    datasets = pytest.importorskip("datasets")
    kinds = {"prompt": datasets.Value("string"), "image": datasets.Image()}
    table = {"prompt": ["a"], "image": [{"bytes": png(9), "path": None}]}
    saved = datasets.Dataset.from_dict(table, features=datasets.Features(kinds))
    saved.save_to_disk(tmp_path / "saved")
    manifest = read(tmp_path / "saved")
    assert manifest.open_image(manifest.rows[0]) == png(9)
    with pytest.raises(ImageError, match=r"bytes are above the cap of 10 \(max_bytes\)"):
        manifest.open_image(manifest.rows[0], max_bytes=10)
