"""Extra columns of every type: written, or refused before anything is computed."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from tglo.data.errors import ManifestError
from tglo.data.manifest import Row, check_rows, read_manifest, write_manifest

TIMES = {"at": datetime(2024, 5, 1, 12, tzinfo=UTC), "day": date(2024, 5, 1)}


def rows_with(**extra):
    return [Row(0, "a", "1.png", 1.0, 2, {}), Row(0, "a", "2.png", 1.0, 3, extra)]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_times_are_written_as_iso(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    extra = {**TIMES, "price": Decimal("1.50"), "list": [TIMES["day"], 1]}
    write_manifest(path, rows_with(**extra))
    found = read_manifest(path).rows[1].extra
    assert found["at"] == "2024-05-01T12:00:00+00:00" and found["day"] == "2024-05-01"
    assert found["price"] == "1.50"
    listed = found["list"] if suffix == ".jsonl" else json.loads(found["list"])
    assert listed == ["2024-05-01", 1]


def test_times_stay_times_in_parquet(tmp_path):
    write_manifest(tmp_path / "m.parquet", rows_with(**TIMES, blob=b"\xff"))
    found = read_manifest(tmp_path / "m.parquet").rows[1].extra
    assert found == {**TIMES, "blob": b"\xff"}


@pytest.mark.parametrize(
    ("suffix", "value", "reason"),
    [
        (".csv", b"\xff", r"column 'x' holds what \.csv cannot \(bytes is not text.* '2\.png'"),
        (".jsonl", b"\xff", r"column 'x' holds what \.jsonl cannot \(bytes is not text"),
        (".jsonl", [[b"\xff"]], r"column 'x' holds what \.jsonl cannot"),
        (".csv", "\ud800", r"column 'x' holds what \.csv cannot .*surrogates"),
        (".jsonl", "\ud800", r"column 'x' holds what \.jsonl cannot .*surrogates"),
        (".parquet", {}, r"column 'x' does not fit into Parquet .*; write \.jsonl"),
    ],
)
def test_what_a_format_cannot_hold_is_known_before(tmp_path, suffix, value, reason):
    path = tmp_path / f"m{suffix}"
    for function in (check_rows, write_manifest):
        with pytest.raises(ManifestError, match=reason):
            function(path, rows_with(x=value))
    assert not list(tmp_path.iterdir())


def test_a_column_of_several_kinds_does_not_fit_parquet(tmp_path):
    rows = [*rows_with(x="text"), Row(0, "a", "3.png", 1.0, 4, {"x": 5})]
    with pytest.raises(ManifestError, match="column 'x' does not fit into Parquet"):
        check_rows(tmp_path / "m.parquet", rows)
    check_rows(tmp_path / "m.jsonl", rows)


def test_extra_columns_may_not_take_the_rows_own_names(tmp_path):
    with pytest.raises(ManifestError, match=r"extra columns \['prompt'\] would overwrite"):
        check_rows(tmp_path / "m.csv", rows_with(prompt="b"))
