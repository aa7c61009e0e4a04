"""The rows of a manifest by their ids, small ones and those that are kept by columns."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from tglo.data import manifest_files
from tglo.data.manifest import read_manifest
from tglo.data.rows_by_id import RowsById, sorted_by_name


@pytest.mark.parametrize("least", [0, float("inf")])
def test_rows_by_id_in_the_order_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: float
) -> None:
    names = [f"i/{name}.png" for name in ("b", "a", "ä", "Z", "\U0001f600", "￿")]
    lines = [f"{prompt},{name},{i}" for i, name in enumerate(names) for prompt in ("z", "é", "y")]
    random.Random(0).shuffle(lines)
    text = "\n".join(["prompt,image,score", *lines, lines[4]])  # one of them twice
    (tmp_path / "m.csv").write_text(text)
    monkeypatch.setattr(manifest_files, "QUICK_FROM", least)
    manifest = read_manifest(tmp_path / "m.csv")
    assert isinstance(manifest.rows, tuple) is (least > 0)
    found = sorted_by_name(manifest)
    once = {row.sample_id: row for row in manifest}
    expected = sorted(once.values(), key=lambda row: (row.image, row.prompt))
    assert [*found] == expected and len(expected) == 18
    rows = RowsById(found)
    assert [*rows] == [row.sample_id for row in expected] and len(rows) == 18
    assert all(rows[i] == row for i, row in once.items())
    assert 5 not in rows and expected[7].sample_id in rows
    with pytest.raises(KeyError):
        rows[5]
    ids = np.array([row.sample_id for row in expected[3:9]])
    assert [*rows.prompts(ids)] == [row.prompt for row in expected[3:9]]
    assert found.select(range(3)).different_prompts() == {"y", "z", "é"}
