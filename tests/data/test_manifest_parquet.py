"""Columns of Parquet files as pandas, polars and Arrow write them."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from tglo.data.errors import ManifestError
from tglo.data.manifest import read_manifest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TEXT = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()),
]
NUMBERS = [
    pa.float16(),
    pa.float32(),
    pa.int8(),
    pa.decimal128(9, 2),
    pa.dictionary(pa.int32(), pa.float64()),
]


def write(folder, **columns):
    table = {"prompt": ["a", "b"], "image": ["1.png", "2.png"], "score": [1.0, 2.0], **columns}
    pq.write_table(pa.table(table), folder / "m.parquet")
    return folder / "m.parquet"


@pytest.mark.parametrize("kind", TEXT, ids=str)
def test_text_of_every_kind(tmp_path, kind):
    columns = {"prompt": ["a", "b"], "image": ["1.png", "2.png"], "tag": ["x", "x"]}
    path = write(tmp_path, **{name: pa.array(v).cast(kind) for name, v in columns.items()})
    rows = read_manifest(path).rows
    assert [(r.prompt, r.image, r.extra) for r in rows] == [
        ("a", "1.png", {"tag": "x"}),
        ("b", "2.png", {"tag": "x"}),
    ]


@pytest.mark.parametrize("kind", NUMBERS, ids=str)
def test_numbers_of_every_kind(tmp_path, kind):
    plain = [Decimal("1"), Decimal("2")] if pa.types.is_decimal(kind) else [1, 2]
    kinds = pa.float64() if pa.types.is_dictionary(kind) else kind
    scores = pa.array(plain, type=kinds)
    scores = scores.dictionary_encode() if pa.types.is_dictionary(kind) else scores
    assert read_manifest(write(tmp_path, score=scores)).scores().tolist() == [1.0, 2.0]


def test_a_pandas_frame_of_categories(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"prompt": ["a", "a"], "image": ["1.png", "2.png"], "score": [1, 2]})
    frame.astype({"prompt": "category", "image": "category"}).to_parquet(tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet").prompts() == ["a", "a"]


def test_times_finer_or_later_than_pythons(tmp_path):
    path = write(
        tmp_path,
        fine=pa.array([1, None], pa.timestamp("ns")),
        whole=pa.array([1000, None], pa.timestamp("ns", "UTC")),
        late=pa.array([10**12, None], pa.timestamp("s")),
    )
    first, second = (row.extra for row in read_manifest(path))
    assert first["fine"] == "1970-01-01 00:00:00.000000001"
    assert first["whole"] == datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert "out of range: 1000000000000" in first["late"]
    assert set(second.values()) == {None}


@pytest.mark.parametrize("column", ["prompt", "image", "tag"])
def test_bad_utf8_names_the_file_and_the_column(tmp_path, column):
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xffb")]
    )
    path = write(tmp_path, **{column: bad})
    with pytest.raises(ManifestError, match=rf"m\.parquet is damaged .*utf-8.*column '{column}'"):
        read_manifest(path)


def test_a_column_of_neither_paths_nor_images_is_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"neither paths nor images .*--image-column"):
        read_manifest(write(tmp_path, image=pa.array([[1], [2]])))


ROWS = {
    "an image is null": ({"image": pa.array([b"x", None], pa.binary())}, r"line 2: the image is missing"),
    "of structs": (
        {"image": pa.array([{"bytes": None, "path": None}, {"bytes": b"x", "path": None}])},
        r"line 1: the image is missing",
    ),
    "a path is null": ({"image": ["1.png", None]}, r"line 2: the image is missing"),
    "a prompt is null": ({"prompt": ["a", None]}, r"line 2: the prompt is missing"),
    "a score is null": ({"score": [None, 1.0]}, r"line 1: the score is missing"),
    "prompts are bytes": ({"prompt": [b"a", b"b"]}, r"'prompt' holds bytes, not text; .*--prompt-column"),
    "prompts are lists": ({"prompt": [["a"], ["b"]]}, r"line 1: the prompt is \['a'\], not text"),
}  # fmt: skip


@pytest.mark.parametrize("what", ROWS)
def test_rows_that_are_not_whole_are_named(tmp_path, what):
    columns, told = ROWS[what]
    with pytest.raises(ManifestError, match=told):
        read_manifest(write(tmp_path, **columns))
