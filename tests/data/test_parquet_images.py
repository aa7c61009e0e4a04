"""Images inside of Parquet files, as `datasets` writes them: one file, shards, what is torn, and what is read when."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.data.test_manifest import png
from tglo.cli import main
from tglo.data.errors import ImageError, ManifestError
from tglo.data.manifest import read_manifest, write_manifest
from tglo.data.parquet_images import ParquetImages

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def embedded(images, **columns):
    cells = [
        None if data is None else {"bytes": data, "path": f"{n}.png"}
        for n, data in enumerate(images)
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    count = len(cells)
    plain = {"prompt": [f"a {n}" for n in range(count)], "score": [float(n) for n in range(count)]}
    return pa.table({**plain, "image": pa.array(cells, kind), **columns})


def write(path, images, group=7, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(embedded(images, **columns), path, row_group_size=group)
    return path


def many(count):
    return [png(n % 256, (8 + n % 3, 8)) for n in range(count)]


@pytest.fixture
def shards(tmp_path):
    for n in range(3):
        write(tmp_path / f"data/train-{n:05d}-of-00003.parquet", many(40)[n * 10 : n * 10 + 10])
    return tmp_path


def images_of(manifest):
    return [manifest.open_image(row) for row in manifest]


def test_one_file(tmp_path):
    path = write(tmp_path / "x.parquet", many(50))
    manifest = read_manifest(path)
    assert manifest.rows[49].image == "x.parquet#image/000000049"
    assert images_of(manifest) == many(50)
    assert [manifest.open_image(row) for row in reversed(manifest.rows)] == many(50)[::-1]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(manifest.open_image, manifest.rows)) == many(50)
    with manifest.open_file(manifest.rows[3]) as file:
        assert file.read() == many(4)[3]
    write_manifest(tmp_path / "m.csv", manifest)
    assert images_of(read_manifest(tmp_path / "m.csv")) == many(50)


def test_what_datasets_writes(tmp_path):
    datasets = pytest.importorskip("datasets")
    kinds = {"text": datasets.Value("string"), "picture": datasets.Image()}
    table = {"text": ["a", "b"], "picture": [{"bytes": png(n), "path": None} for n in range(2)]}
    datasets.Dataset.from_dict(table, features=datasets.Features(kinds)).to_parquet(
        tmp_path / "x.parquet"
    )
    names = {"prompt_column": "text", "image_column": "picture"}
    manifest = read_manifest(tmp_path / "x.parquet", **names, require_scores=False)
    assert images_of(manifest) == [png(0), png(1)]
    with pytest.raises(ManifestError, match=r"no column 'image' .*\['text', 'picture'\]"):
        read_manifest(tmp_path / "x.parquet", prompt_column="text", require_scores=False)


def test_a_column_of_bytes_and_other_images_beside(tmp_path):
    path = write(tmp_path / "x.parquet", many(3), image=pa.array(many(3)), other=pa.array(many(3)))
    manifest = read_manifest(path)
    assert images_of(manifest) == many(3) and manifest.rows[0].extra == {}


def test_shards_of_a_snapshot(shards):
    manifest = read_manifest(shards)
    assert manifest.rows[13].image == "data/train-00001-of-00003.parquet#image/000000003"
    assert [row.line for row in manifest][9:12] == [10, 1, 2]
    assert images_of(manifest) == many(30)
    assert len({row.sample_id for row in manifest}) == 30
    pattern = read_manifest(shards / "data/train-*.parquet")
    assert images_of(pattern) == many(30)
    assert read_manifest(shards / "data").sha256 == pattern.sha256


def test_splits_are_not_mixed(shards):
    write(shards / "data/test-00000-of-00001.parquet", many(2))
    with pytest.raises(
        ManifestError, match=r"data/test-\*\.parquet, data/train-\*\.parquet: give"
    ) as e:
        read_manifest(shards)
    named = re.search(r"as '(.+)'", str(e.value))
    assert named is not None and len(read_manifest(named[1])) == 2
    assert len(read_manifest(shards / "data/train-*.parquet")) == 30


@pytest.mark.parametrize("path", [".", "data", "data/train-*.parquet"])
def test_a_missing_shard_is_named(shards, path):
    (shards / "data/train-00001-of-00003.parquet").unlink()
    with pytest.raises(ManifestError, match=r"1 of the 3 .*train-00001-of-00003\.parquet for one"):
        read_manifest(shards / path)


def test_no_file_of_a_pattern(tmp_path):
    with pytest.raises(ManifestError, match=r"there is no file like .*x-\*\.parquet"):
        read_manifest(tmp_path / "x-*.parquet")


def test_paths_and_images_in_one_column(tmp_path):
    images = many(20)
    cells = [{"bytes": data, "path": None} for data in images]
    cells[3], cells[5] = {"bytes": None, "path": "3.png"}, None
    (tmp_path / "3.png").write_bytes(png(99))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    path = write(tmp_path / "x.parquet", images, image=pa.array(cells, kind))
    with pytest.raises(
        ManifestError, match=r"1 of 20 rows.*line 6: the image is missing, not a path"
    ):
        read_manifest(path)
    cells[5] = cells[4]
    path = write(tmp_path / "x.parquet", images, image=pa.array(cells, kind))
    manifest = read_manifest(path)
    assert manifest.rows[3].image == "3.png" and manifest.open_image(manifest.rows[3]) == png(99)


def test_bad_rows_are_named_with_their_shard(shards):
    write(shards / "data/train-00001-of-00003.parquet", many(2), score=pa.array(["1", "2"]))
    with pytest.raises(
        ManifestError,
        match=r"data/train-00001-of-00003\.parquet, row 1: the score is '1', not a num",
    ):
        read_manifest(shards)


def test_a_broken_image_is_set_aside_with_its_row(shards, capsys):
    images = [*many(9), b"no image"]
    write(shards / "data/train-00001-of-00003.parquet", images)
    command = ["score", str(shards), "--scorer", "ink", "--max-bad-fraction", "0.05"]
    assert main(command) == 0
    assert len(read_manifest(shards / "scored.csv")) == 29
    assert main([*command[:-1], "0", "--output", str(shards / "again.csv")]) == 1
    error = capsys.readouterr().err
    assert re.search(
        r"line 10: data/train-00001-of-00003\.parquet#image/000000009: .*cannot be dec", error
    )


def test_a_torn_file(tmp_path):
    path = write(tmp_path / "x.parquet", many(40), group=40)
    manifest = read_manifest(path)
    data = path.read_bytes()
    place = len(data) // 3
    path.write_bytes(data[: place - 300] + bytes(600) + data[place + 300 :])
    try:
        found = images_of(read_manifest(path))
    except ImageError as error:
        assert re.search(r"row \d+ of x\.parquet is damaged .*copy the file", str(error))
    else:
        assert found != many(40)  # bytes have no checksum of their own, images mostly have
    path.write_bytes(data[:-100])
    with pytest.raises(ManifestError, match=r"x\.parquet is damaged or no Parquet file"):
        images_of(manifest.select([0]))
    with pytest.raises(ManifestError, match=r"x\.parquet is damaged or no Parquet file"):
        read_manifest(path)


def test_references_that_lead_nowhere(tmp_path):
    write(tmp_path / "x.parquet", many(3))
    for member in ("image/3", "image/x", "other/0", "score/0"):
        path = tmp_path / "m.csv"
        path.write_text(f"prompt,image,score\na,x.parquet#{member},1\n")
        manifest = read_manifest(path)
        with pytest.raises(ImageError, match=r"x\.parquet.* has no image|holds no image bytes"):
            manifest.open_image(manifest.rows[0])
    with pytest.raises(ImageError, match=r"bytes are above the cap of 10"):
        manifest = read_manifest(tmp_path / "x.parquet")
        manifest.open_image(manifest.rows[0], max_bytes=10)


def test_images_are_not_read_with_the_rows_and_in_order_only_once(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", many(100), group=50)
    read = []
    batches = pq.ParquetFile.iter_batches

    def recorded(self, **options):
        read.append(options["columns"])
        return batches(self, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", recorded)
    manifest = read_manifest(path)
    assert read == [["prompt", "score", "image.path"]]
    images_of(manifest)
    assert read[1:] == [["image.bytes"]] * 2  # once for each group of rows


def test_what_was_read_is_kept_up_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("tglo.data.parquet_images._KEPT_BYTES", 3000)
    path = write(tmp_path / "x.parquet", [bytes([n]) * 100 for n in range(100)], group=100)
    images = ParquetImages(path, "x.parquet")
    for n in (*range(100), 50, 99, 0):
        assert images.read("image", n) == bytes([n]) * 100
        assert images._kept_bytes <= 3000


def test_more_shards_than_may_be_open(tmp_path):
    for n in range(9):
        write(tmp_path / f"train-{n:05d}-of-00009.parquet", many(9)[n : n + 1])
    manifest = read_manifest(tmp_path)
    assert images_of(manifest) == many(9)
    assert len(manifest._store._parquets) <= 4
