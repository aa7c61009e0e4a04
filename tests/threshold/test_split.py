"""Labels of one side: refused where an objective cannot learn from them, before the model is loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.cache.fake_encoder import FakeEncoder, make_manifest
from tglo.cache.build import build_cache
from tglo.cache.latents import LatentCache
from tglo.data.manifest import Manifest
from tglo.objectives import OBJECTIVES
from tglo.threshold.frozen import Threshold, estimate
from tglo.train.config_files import parse_config
from tglo.train.samples import choose

GROUPS = {"lair": {"group": 2}}
ROWS = {"lair": 4}  # of six in three sizes: 3, 2 and 1


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Manifest, LatentCache]:
    folder = tmp_path_factory.mktemp("data")
    rows = make_manifest(folder, 6)
    rows = rows.with_rows(
        replace(row, score=float(n), prompt="a cat") for n, row in enumerate(rows)
    )
    markers = ("good image: ", "bad image: ")
    build_cache(
        rows, folder / "cache", FakeEncoder(), resolution=32, progress=False, markers=markers
    )
    return rows, LatentCache(folder / "cache")


def chosen(made, name: str, threshold: Threshold) -> int:
    """The number of rows that the objective trains on."""
    rows, cache = made
    config = parse_config({"objective": {"name": name, **GROUPS.get(name, {})}})
    return len(choose(config, OBJECTIVES[name](), rows, cache, threshold).ids)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_positive(made, name):
    threshold = estimate(made[0].scores(), 0)
    if name in ("tgo", "kto", "bco"):
        message = rf"all 6 samples are at or above their threshold, so objective {name} has nothing"
        with pytest.raises(ValueError, match=message):
            chosen(made, name, threshold)
    else:  # sft trains on all, csft on one marker; the others do not look at labels
        assert chosen(made, name, threshold) == ROWS.get(name, 6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_negative(made, name):
    threshold = estimate([10.0, 11.0], source="proxy")
    if name in ("tgo", "kto", "bco", "sft", "csft"):
        message = (
            rf"all 6 samples are below their threshold, and objective {name} learns from those"
        )
        with pytest.raises(ValueError, match=message):
            chosen(made, name, threshold)
    else:
        assert chosen(made, name, threshold) == ROWS.get(name, 6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_both(made, name):
    assert chosen(made, name, estimate(made[0].scores(), 50)) == {"sft": 3, **ROWS}.get(name, 6)
