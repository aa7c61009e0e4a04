"""Images that lie elsewhere, links, and the layout of a hub's cache."""

from __future__ import annotations

import os
import re

import pytest

from tests.data.test_manifest import png
from tglo.data.errors import ImageError, ManifestError
from tglo.data.manifest import read_manifest, write_manifest


def write_csv(path, *images):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"a,{image},{n}\n" for n, image in enumerate(images))
    path.write_text("prompt,image,score\n" + rows)
    return path


def images_of(manifest):
    return [manifest.open_image(row) for row in manifest]


@pytest.fixture
def store(tmp_path):
    """A folder of two images, beside the folders of the manifests."""
    folder = tmp_path.resolve() / "store"
    folder.mkdir()
    for n in range(2):
        (folder / f"{n}.png").write_bytes(png(n))
    return folder


def test_absolute_paths_in_the_root_are_read(store, tmp_path):
    path = write_csv(tmp_path / "ds/m.csv", store / "0.png", store / "1.png")
    with pytest.raises(ManifestError, match=r"outside the data folder .*ds.* as --root"):
        read_manifest(path)
    manifest = read_manifest(path, root=store)
    assert images_of(manifest) == [png(0), png(1)]
    assert manifest.rows == read_manifest(path, root=tmp_path).rows


def test_relative_paths_start_at_the_root(store, tmp_path):
    path = write_csv(tmp_path / "ds/m.csv", "0.png", "1.png")
    with pytest.raises(ImageError, match=r"No such file.*--root names the folder"):
        images_of(read_manifest(path))
    manifest = read_manifest(path, root=store)
    assert images_of(manifest) == [png(0), png(1)]
    (tmp_path / "ds/0.png").write_bytes(png(9))  # the root's comes first
    assert images_of(manifest) == [png(0), png(1)]
    ids = read_manifest(path).sample_ids().tolist()
    assert manifest.sample_ids().tolist() == ids  # as without a root


def test_links_out_of_the_folder_are_read_with_the_root_that_the_error_names(store, tmp_path):
    path = write_csv(tmp_path / "ds/m.csv", "images/0.png", "images/1.png", "own.png")
    (path.parent / "images").symlink_to(store)
    (path.parent / "own.png").write_bytes(png(2))
    with pytest.raises(ManifestError, match="link out of the data folder") as caught:
        images_of(read_manifest(path))
    named = re.search(r"as --root \(data\.root\): (\S+)", str(caught.value))
    assert named is not None
    manifest = read_manifest(path, root=named[1])
    assert images_of(manifest) == [png(0), png(1), png(2)]

    manifest = read_manifest(path, root=store)  # where the links lead
    assert images_of(manifest.select([0, 1])) == [png(0), png(1)]
    with pytest.raises(ManifestError, match=r"'own\.png' is outside the data folder .*store"):
        manifest.open_image(manifest.rows[2])


def test_a_root_does_not_open_the_rest_of_the_disk(store, tmp_path):
    (tmp_path / "secret.png").write_bytes(png(3))
    (store / "link.png").symlink_to(tmp_path / "secret.png")
    path = write_csv(tmp_path / "ds/m.csv", "link.png")
    with pytest.raises(ManifestError, match="link out of the data folder"):
        images_of(read_manifest(path, root=store))
    for image in (tmp_path / "secret.png", "../secret.png", f"{store}/../secret.png"):
        with pytest.raises(ManifestError, match="is absolute and outside|climbs with"):
            read_manifest(write_csv(tmp_path / "ds/m.csv", image), root=store)


def test_the_errors_remedy_holds_also_when_the_manifest_lies_elsewhere(store, tmp_path):
    (tmp_path / "top").mkdir()
    (tmp_path / "top/0.png").symlink_to(store / "0.png")
    path = write_csv(tmp_path / "lists/m.csv", "0.png")
    with pytest.raises(ManifestError, match="write its absolute path into the manifest and give"):
        images_of(read_manifest(path, root=tmp_path / "top"))
    path = write_csv(path, tmp_path.resolve() / "top/0.png")
    assert images_of(read_manifest(path, root=tmp_path)) == [png(0)]


def test_a_root_must_be_a_folder(tmp_path):
    path = write_csv(tmp_path / "m.csv", "0.png")
    for root in (path, tmp_path / "nowhere"):
        with pytest.raises(
            ManifestError, match=r"the root .* \(--root, data\.root\) is not a folder"
        ):
            read_manifest(path, root=root)


@pytest.fixture
def snapshot(tmp_path):
    """A data set as the hub's client stores it: every file of a snapshot is a link to a blob."""
    folder = tmp_path / "hub/datasets--a--b"
    blobs, revision = folder / "blobs", folder / "snapshots" / ("0" * 40)
    blobs.mkdir(parents=True), (revision / "images").mkdir(parents=True)
    for n in range(2):
        (blobs / f"{n}f00").write_bytes(png(n))
        (revision / f"images/{n}.png").symlink_to(f"../../../blobs/{n}f00")
    (blobs / "abc").write_text("prompt,image,score\na,images/0.png,1\nb,images/1.png,2\n")
    (revision / "m.csv").symlink_to("../../blobs/abc")
    return revision


def test_a_snapshot_of_the_hub_is_read(snapshot, tmp_path):
    assert images_of(read_manifest(snapshot / "m.csv")) == [png(0), png(1)]
    (tmp_path / "ds").symlink_to(snapshot)
    assert images_of(read_manifest(tmp_path / "ds/m.csv")) == [png(0), png(1)]
    mine = write_csv(tmp_path / "mine/m.csv", "images/1.png")
    assert images_of(read_manifest(mine, root=snapshot)) == [png(1)]


def test_a_hub_cache_may_lie_below_a_folder_of_that_name(snapshot, tmp_path):
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "hub").rename(tmp_path / "snapshots/hub")
    moved = tmp_path / "snapshots" / snapshot.relative_to(tmp_path)
    assert images_of(read_manifest(moved / "m.csv")) == [png(0), png(1)]


@pytest.mark.parametrize(
    "target", ["hub/secret", "hub/datasets--c--d/blobs/x", "hub/datasets--a--b/x"]
)
def test_a_snapshots_link_to_what_is_no_blob_of_its_own_is_refused(snapshot, tmp_path, target):
    secret = tmp_path / target
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_bytes(png(3))
    (snapshot / "images/0.png").unlink()
    (snapshot / "images/0.png").symlink_to(secret)
    with pytest.raises(ManifestError, match="link out of the data folder"):
        images_of(read_manifest(snapshot / "m.csv"))


def test_a_saved_data_set_in_the_hubs_layout_is_read(snapshot):
    datasets = pytest.importorskip("datasets")
    table = {"prompt": ["a"], "image": ["images/0.png"], "score": [1.0]}
    datasets.Dataset.from_dict(table).save_to_disk(snapshot / "saved")
    for file in (snapshot / "saved").iterdir():
        blob = snapshot.parents[1] / "blobs" / file.name
        file.rename(blob)
        file.symlink_to(blob)
    manifest = read_manifest(snapshot / "saved", root=snapshot)
    assert images_of(manifest) == [png(0)]


def test_a_result_is_written_where_its_images_are_found_again(store, tmp_path):
    path = write_csv(tmp_path / "ds/m.csv", "images/0.png")
    (path.parent / "images").symlink_to(store)
    manifest = read_manifest(path, root=tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    manifest.check_output(tmp_path / "ds/scored.csv")
    with pytest.raises(ManifestError, match=r"is not in .*; write it there"):
        manifest.check_output(out / "scored.csv")
    with pytest.raises(
        ManifestError, match=r"would not be found from .*scored\.csv; write into .*ds"
    ):
        manifest.check_output(out / "scored.csv", elsewhere=True)

    manifest = read_manifest(write_csv(tmp_path / "ds/m.csv", "0.png"), root=store)
    manifest.check_output(out / "scored.csv", elsewhere=True)
    write_manifest(out / "scored.csv", manifest.rows)
    assert images_of(read_manifest(out / "scored.csv", root=store)) == [png(0)]


def test_the_folder_of_a_manifest_may_be_a_link(store, tmp_path):
    write_csv(store / "m.csv", "0.png", f"{store}/1.png")
    os.symlink(store, tmp_path / "link")
    assert images_of(read_manifest(tmp_path / "link/m.csv")) == [png(0), png(1)]
