"""Large manifests are read by columns: the same rows, errors and digests as row by row."""

from __future__ import annotations

import csv
import io
import pickle
import random
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tglo.data import manifest as manifest_module
from tglo.data import manifest_files
from tglo.data.manifest import Manifest, Row, read_manifest, write_manifest
from tglo.data.row_columns import LazyRows

Read = Callable[..., tuple[Manifest | str, Manifest | str]]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Read a manifest row by row and by columns; an error as its text."""

    def once(path: Path, least: float, options: dict[str, Any]) -> Manifest | str:
        monkeypatch.setattr(manifest_files, "QUICK_FROM", least)
        try:
            return read_manifest(path, **options)
        except ValueError as error:
            return str(error)

    def both(path: Path, **options: Any) -> tuple[Manifest | str, Manifest | str]:
        return once(path, float("inf"), options), once(path, 0, options)

    return both


def cells(row: Row) -> tuple[Any, ...]:
    extra = list(row.extra.items())
    return (*map(repr, (row.sample_id, row.prompt, row.image, row.score, row.line, extra)),)


def check_equal(plain: Manifest | str, quick: Manifest | str, by_columns: bool | None) -> None:
    if isinstance(plain, str):
        assert quick == plain
        return
    assert isinstance(quick, Manifest) and isinstance(plain.rows, tuple)
    if by_columns is not None:
        assert isinstance(quick.rows, LazyRows) == by_columns
    assert list(map(cells, quick.rows)) == list(map(cells, plain.rows))
    assert quick == plain and quick.rows[-1] == plain.rows[-1]
    assert quick.prompts() == plain.prompts() == quick.prompt_codes()
    assert (quick.lines() == plain.lines()).all()
    assert (quick.sample_ids() == plain.sample_ids()).all()
    assert (quick.sha256, quick.identity) == (plain.sha256, plain.identity)
    some = [i for i in range(len(plain)) if i % 3 != 1][::-1]
    ours, theirs = quick.select(some), plain.select(some)
    assert list(map(cells, ours)) == list(map(cells, theirs)) and ours.sha256 == theirs.sha256
    last = {row.sample_id: row for row in plain}.values()  # at the place of the first
    for manifest in (plain, quick):
        assert list(map(cells, manifest.distinct())) == list(map(cells, last))


HEAD = "prompt,image,score,extra\n"
PLAIN = HEAD + "a cat,1.png,0.5,x\na dog,2.png,-1e-3,\na cat,3.png, 7 ,y\n"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        "\ufeff" + PLAIN,
        PLAIN.rstrip("\n"),
        PLAIN.replace("\na dog", "\n\n\na dog") + "\n\n",
        HEAD + '"a ""big"" cat, asleep","1.png",0.5,"x\ny"\na dog,2.png,1,""\n',
        HEAD + '"a\n\ncat",1.png,0.5,"x"\r\n"a\r\ndog",2.png,1,z\n',
        HEAD + '"",1.png,0.5,""""\nb,2.png,1,"\n"\n',
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace("prompt,image", "image,prompt"),
        "prompt,image,score,other_prompt\na,1.png,1,2\n",
        HEAD + "ein Schloß 城,ü.png,0.1,é\n",
        HEAD + "a,images/..b.png,+1,x\nb,c..png,1E5,x\na,images/..b.png,2,again\n",
    ],
)
def test_csv_by_columns(text: str, tmp_path: Path, read: Read) -> None:
    (tmp_path / "m.csv").write_bytes(text.encode())
    plain, quick = read(tmp_path / "m.csv")
    assert isinstance(plain, Manifest), plain
    check_equal(plain, quick, by_columns=True)


@pytest.mark.parametrize(
    "text",
    [
        HEAD + '5" nails,1.png,0.5,x\n',
        HEAD + '"a"b,1.png,0.5,x\n',
        HEAD + '"a,1.png,0.5,x\n',
        HEAD + '"a\nb,1.png,0.5,x\n',
        HEAD + "a,1.png,0.5\n",
        HEAD + "a,1.png,0.5,x,y\nb,2.png,high,x\n",
        HEAD + "a,1.png,,x\nb,2.png,nan,x\nc,3.png,inf,x\nd,4.png,1e301,y\n",
        HEAD + 'a,1.png,"1,5",x\nb,2.png,1_000,x\n',
        HEAD.replace(",", ";") + "a;1.png;1,5;x\nb;2.png;2;x\n",
        HEAD.replace(",", ";") + "a;1.png;1,5;x\nb;2.png;2.5;x\n",
        HEAD + "a,../1.png,1,x\nb,/etc/passwd,1,x\nc,http://x/1.png,1,x\nd,,1,x\n",
        HEAD + "a,1.png,1,x\rb,2.png,1,x\r",
        HEAD + "a\0,1.png,1,x\n",
        HEAD + "a,1\0.png,1,x\n",
        HEAD + "a,1.png,٣,x\n",
        HEAD,
        "",
        "prompt,picture,score\na,1.png,1\n",
        "prompt,image,score,score\na,1.png,1,1\n",
        HEAD + "a" * 140_000 + ",1.png,1,x\n",
    ],
)
def test_unusual_csv_is_as_row_by_row(text: str, tmp_path: Path, read: Read) -> None:
    (tmp_path / "m.csv").write_bytes(text.encode())
    for required in (True, False):
        check_equal(*read(tmp_path / "m.csv", require_scores=required), by_columns=None)
    (tmp_path / "m.csv").write_bytes(PLAIN.encode() + b"\xff,1.png,1,x\n")
    check_equal(*read(tmp_path / "m.csv"), by_columns=None)


def test_texts_of_many_rows_are_in_a_file_without_a_name(
    tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr("tglo.data.row_blocks._ROWS", 20)
    monkeypatch.setattr("tglo.data.separated_lines._CHUNK", 200)
    lines = [f"p{i % 7},{i}.png,{i / 3},note {i}" for i in range(100)]
    (tmp_path / "m.csv").write_text(HEAD + "\n".join(lines))
    check_equal(*read(tmp_path / "m.csv"), by_columns=True)
    assert not any((tmp_path / "tmp").iterdir())
    (tmp_path / "m.csv").write_text(HEAD + "\n".join([*lines, "p,../1.png,1,x"]))
    plain, quick = read(tmp_path / "m.csv")
    assert quick == plain and not any((tmp_path / "tmp").iterdir())

    def full(self: object, columns: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "m.csv").write_text(HEAD + "\n".join(lines))
    monkeypatch.setattr("tglo.data.spilled.Spilled.write", full)
    check_equal(*read(tmp_path / "m.csv"), by_columns=False)


def test_random_csv(tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tglo.data.separated_lines._CHUNK", 64)
    draw = random.Random(0)
    pieces = ["a", "cat", " ", '"', ",", "\n", "\r\n", "é", "..", "/", "'", "\t", "城"]
    by_columns = 0
    for number in range(150):
        text = io.StringIO(newline="")
        quoting = csv.QUOTE_ALL if number % 3 == 0 else csv.QUOTE_MINIMAL
        end = draw.choice(["\n", "\r\n"])
        writer = csv.writer(text, quoting=quoting, lineterminator=end)
        writer.writerow(["prompt", "image", "note", "score"])
        for row in range(draw.randrange(1, 30)):
            prompt, note = ("".join(draw.choices(pieces, k=draw.randrange(6))) for _ in range(2))
            writer.writerow([prompt, f"{row % 7}.png", note, draw.choice([1, 0.25, -3e-5, "7."])])
            if draw.random() < 0.1:
                text.write(end)
        data = text.getvalue()
        if number % 5 == 0:  # torn anywhere
            data = data[: draw.randrange(len(data))]
        (tmp_path / "m.csv").write_bytes(data.encode())
        plain, quick = read(tmp_path / "m.csv")
        check_equal(plain, quick, by_columns=None)
        by_columns += isinstance(quick, Manifest) and isinstance(quick.rows, LazyRows)
    assert by_columns > 100


def test_byte_order_marks_within_a_file_are_text(
    tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tglo.data.separated_lines._CHUNK", 16)  # so that rows begin a chunk
    rows = [f"\ufeffa cat,{i}.png,{i},\ufeff" for i in range(9)]
    (tmp_path / "m.csv").write_bytes("\n".join(["\ufeff" + HEAD.strip(), *rows]).encode())
    plain, quick = read(tmp_path / "m.csv")
    check_equal(plain, quick, by_columns=None)
    assert isinstance(quick, Manifest) and set(quick.prompts()) == {"\ufeffa cat"}


def test_scores_have_every_bit(tmp_path: Path, read: Read) -> None:
    values = np.random.default_rng(0)
    scores = np.concatenate(
        [values.normal(size=400), 10 ** values.uniform(-320, 300, 400), values.integers(-9, 9, 40)]
    )
    lines = [f"p{i % 5},{i}.png,{score!r}" for i, score in enumerate(scores.tolist())]
    (tmp_path / "m.csv").write_text("prompt,image,score\n" + "\n".join(lines))
    plain, quick = read(tmp_path / "m.csv")
    check_equal(plain, quick, by_columns=True)
    assert isinstance(quick, Manifest) and (quick.scores() == scores).all()


TABLE: dict[str, Any] = {
    "prompt": ["a cat", "a dog", "a cat"],
    "image": ["1.png", "2.png", "3.png"],
    "score": [0.5, 2.0, -1.0],
}


@pytest.mark.parametrize(
    ("changed", "by_columns"),
    [
        ({}, True),
        ({"score": pa.array([1, 2, 2**60 + 1])}, True),
        ({"score": pa.array([1, 2, 3], pa.float32())}, True),
        ({"prompt": pa.array(TABLE["prompt"]).dictionary_encode()}, True),
        ({"image": pa.array(TABLE["image"], pa.large_string())}, True),
        ({"n": [1, None, 3], "when": pa.array([datetime(2024, 1, 2)] * 3)}, True),
        ({"when": pa.array([1, 2, 3], pa.timestamp("ns"))}, True),
        ({"day": pa.array([0, None, 2932896], pa.date32())}, True),
        ({"day": pa.array([1, 2, 2932897], pa.date32())}, None),
        ({"days": pa.array([[2932897]] * 3, pa.list_(pa.date32()))}, None),
        ({"tags": [["a"], [], None], "price": [Decimal("1.5")] * 3}, True),
        ({"data": [b"x"] * 3, "prompt_image": [1, 2, 3]}, True),
        ({"image": [b"one", b"two", b"three"]}, True),
        (
            {
                "image": [{"bytes": b"x", "path": "p"}, {"bytes": None, "path": "2.png"}] * 1
                + [{"bytes": b"z", "path": None}]
            },
            True,
        ),
        ({"score": [True, False, True]}, None),
        ({"score": [Decimal("1.5")] * 3}, False),
        ({"score": ["1", "2", "3"]}, None),
        ({"score": [1.0, None, 2.0]}, None),
        ({"prompt": ["a", None, "b"]}, None),
        ({"image": ["1.png", "../2.png", ""]}, None),
        ({"image": [1, 2, 3]}, None),
        ({"map": pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64()))}, False),
    ],
)
def test_parquet(
    changed: dict[str, Any], by_columns: bool | None, tmp_path: Path, read: Read
) -> None:
    pq.write_table(pa.table({**TABLE, **changed}), tmp_path / "m.parquet", row_group_size=2)
    check_equal(*read(tmp_path / "m.parquet"), by_columns=by_columns)
    check_equal(*read(tmp_path / "m.parquet", require_scores=False), by_columns=None)


def test_parquet_shards(tmp_path: Path, read: Read) -> None:
    for number in range(2):
        pq.write_table(pa.table(TABLE), tmp_path / f"train-0000{number}-of-00002.parquet")
    check_equal(*read(tmp_path), by_columns=True)
    check_equal(*read(tmp_path / "train-*.parquet"), by_columns=True)
    bad = pa.table({**TABLE, "score": [1.0, float("inf"), 2.0]})
    pq.write_table(bad, tmp_path / "train-00001-of-00002.parquet")
    plain, quick = read(tmp_path)
    assert quick == plain and "train-00001-of-00002.parquet, row 2" in str(plain)


LINE = '{"prompt": "a cat", "image": "1.png", "score": 0.5}\n'


@pytest.mark.parametrize(
    ("text", "by_columns"),
    [
        (LINE, True),
        (LINE * 2 + "\n  \n" + LINE.replace("0.5", "7"), True),
        (
            LINE
            + LINE.replace("}", ', "n": [1, {"a": null}], "other": "x"}').replace("1.png", "2.png"),
            True,
        ),
        (LINE.replace("}", ', "prompt": "twice"}'), True),
        (LINE.replace("cat", "\\u57ce"), True),
        (LINE.replace("cat", "\\ud800"), None),
        (LINE.replace("0.5", "1" + "0" * 400), None),
        (LINE.replace("0.5", "true"), None),
        (LINE.replace("0.5", '"0.5"'), None),
        (LINE.replace("0.5", "null"), None),
        (LINE.replace("0.5", "NaN"), None),
        (LINE.replace('"a cat"', "5"), None),
        (LINE + '{"image": "2.png", "score": 1}\n', None),
        (LINE + "[1]\n", None),
        (LINE + '{"torn": \n', None),
        (LINE.replace("1.png", "../1.png"), None),
        ("", None),
    ],
)
def test_json_lines(text: str, by_columns: bool | None, tmp_path: Path, read: Read) -> None:
    (tmp_path / "m.jsonl").write_text(text)
    check_equal(*read(tmp_path / "m.jsonl"), by_columns=by_columns)
    check_equal(*read(tmp_path / "m.jsonl", require_scores=False), by_columns=None)
    (tmp_path / "m.jsonl").write_text(text.replace('"prompt"', '"text"'))
    options = {"prompt_column": "text"}
    check_equal(*read(tmp_path / "m.jsonl", **options), by_columns=by_columns)


def test_many_rows_of_other_formats_are_kept_by_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        f'{{"prompt": "p{i % 3}", "image": "{i}.png", "score": {i % 5}, "n": [{i}]}}'
        for i in range(25)
    ]
    (tmp_path / "m.jsonl").write_text("\n".join([*lines[:10], "", *lines[10:]]))
    plain = read_manifest(tmp_path / "m.jsonl")
    monkeypatch.setattr(manifest_module, "MANY", 10)
    check_equal(plain, read_manifest(tmp_path / "m.jsonl"), by_columns=True)


def test_two_images_of_one_id_are_refused(
    tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_module, "sample_id", lambda prompt, image: len(image))
    monkeypatch.setattr(
        "tglo.data.row_blocks.sample_ids", lambda prompts, images: np.full(len(images), 5)
    )
    (tmp_path / "m.csv").write_text(PLAIN)
    plain, quick = read(tmp_path / "m.csv")
    assert quick == plain and "lines 2 and 3 differ but have the same sample id 5" in str(plain)


@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".tsv"])
def test_scores_and_columns_are_added_and_written_without_rows(
    tmp_path: Path, read: Read, suffix: str, selected: bool
) -> None:
    """They have the bytes that small manifests have, whose rows are made one by one. Other columns stay; one of
    the same name is replaced.
    """
    lines = "".join(f"a {i % 7},i/{i}.png,{i / 3},note {i},{i}\n" for i in range(5000))
    (tmp_path / "m.csv").write_text("prompt,image,score,note,old\n" + lines)
    small, large = read(tmp_path / "m.csv")
    assert isinstance(small, Manifest) and isinstance(large, Manifest)
    assert isinstance(large.rows, LazyRows) and large.rows == small.rows
    if selected:
        places = np.arange(4999, 0, -3)
        small, large = small.select(places), large.select(places)
    scores = np.arange(len(small)) / 7
    columns = {"new": scores * 2, "old": -scores}
    for number, manifest in enumerate((small, large)):
        again = manifest.with_scores(scores, columns)
        assert again.column("old")[1] == -1 / 7 and [*again.images()][:1] == [again.rows[0].image]
        write_manifest(tmp_path / f"{number}{suffix}", again.with_scores(scores, {"new": scores}))
    found = [(tmp_path / f"{number}{suffix}").read_bytes() for number in (0, 1)]
    assert found[0] == found[1]
    assert pickle.loads(pickle.dumps(large)).rows == large.rows
