"""Baselines and weights in a run: found once over all rows, handed to the loss, and the same after a resume."""

from __future__ import annotations

import csv
import json
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.conftest import without_export
from tests.train.test_loop import assert_same, final_weights
from tests.train.test_resume import more
from tests.train.test_same_data import change_manifest
from tglo.cache.latents import LatentCache
from tglo.cache.make import build
from tglo.cache.pooled import mean_pooled
from tglo.cli import main
from tglo.data.manifest import read_manifest
from tglo.threshold.frozen import Threshold, estimate
from tglo.train import TrainConfig, load_config, train
from tglo.train.checkpoint import newest
from tglo.train.config_checks import check
from tglo.train.config_files import parse_config, to_plain
from tglo.train.run import _Data, prepare

Make = Callable[..., TrainConfig]
RECIPE = {"confidence": math.inf, "weight_normalisation": True, "balance": True}


@pytest.fixture
def make_config(make_config: Make) -> Make:
    return without_export(make_config)


def test_the_published_setting_hands_no_weights_to_the_loss(make_config: Make) -> None:
    for objective in ({}, {"name": "kto"}):
        samples = _Data(make_config(objective=objective)).samples
        assert samples.labels.weights is None and samples.weighing is None


@pytest.mark.parametrize("scale", ["none", "std"])
def test_weights_are_those_of_all_rows(make_config: Make, scale: str) -> None:
    data = {"baseline": "oracle", "score_scale": scale}
    made = _Data(make_config(data=data, objective={**RECIPE, "balance": False}))
    scores, prompts = made.manifest.scores(), made.manifest.prompts()
    threshold = estimate(scores, prompts=prompts, baseline="oracle", score_scale=scale)
    assert made.threshold == threshold and threshold.fit is not None
    distance = np.abs(scores - threshold.for_prompts(prompts))
    weights = made.samples.labels.weights
    assert weights is not None and weights.dtype == torch.float64
    assert weights.numpy() == pytest.approx(distance / distance.mean(), rel=1e-12)


def test_the_loss_of_a_micro_batch_has_them(make_config: Make) -> None:
    config = make_config(data={"baseline": "mean"}, objective=RECIPE, optimizer={"micro_batch": 4})
    config.output.folder.mkdir(parents=True)
    run = prepare(config, torch.device("cpu"))
    try:
        batch = run.batches.get(0, 0)
        answer = run.family.predict(run.engine.model, batch.draw)
        assert run.reference is not None
        batch = batch.answered(answer, run.reference.predict(batch.draw))
        loss, stats = run.objective(batch, run.temperature.value)
    finally:
        run.batches.close()
    weights = batch.labels.weights
    assert weights is not None and torch.equal(stats.weight, weights)
    # Policy and reference are equal: softplus(0) = log 2.
    assert loss.item() == pytest.approx(float(weights.mean()) * math.log(2), rel=1e-6)


def test_a_resume_with_normalised_weights_is_the_straight_run_bit_for_bit(
    make_config: Make,
) -> None:
    options = {"data": {"baseline": "oracle"}, "objective": RECIPE, "model": {"train": "full"}}
    straight = make_config(folder="straight", **options)
    train(straight)
    parted = make_config(folder="parted", **options, output={"save_every": 2})
    train(parted)
    shutil.rmtree(
        parted.output.folder / "checkpoints" / "step-00000004"
    )  # as if killed after step 3
    train(parted)
    assert_same(final_weights(straight.output.folder), final_weights(parted.output.folder))
    assert newest(parted.output.folder / "checkpoints")[1]["weighing"]["confidence"] == "inf"
    saved = json.loads((parted.output.folder / "config.json").read_text())
    assert saved["objective"]["confidence"] == "inf" and parse_config(saved) == parted


def test_a_row_keeps_its_weight_when_others_have_gone(make_config: Make, tmp_path: Path) -> None:
    threshold = tmp_path / "threshold.json"
    config = make_config(objective={**RECIPE, "confidence": 2.0})
    scores = read_manifest(config.data.manifest).scores()
    estimate(scores, source="proxy").save(threshold)  # the same for both manifests
    config = replace(config, data=replace(config.data, threshold=threshold))
    train(config)
    recorded = newest(config.output.folder / "checkpoints")[1]["weighing"]
    fewer = more(change_manifest(config, tmp_path / "fewer", lambda rows: rows[:-3]), steps=6)
    assert _Data(fewer).samples.weighing.plain() != recorded
    train(replace(fewer, output=replace(fewer.output, accept_changes=True)))
    assert newest(config.output.folder / "checkpoints")[1]["weighing"] == recorded
    train(more(replace(fewer, objective=replace(fewer.objective, balance=False)), steps=7))
    after = newest(config.output.folder / "checkpoints")[1]["weighing"]
    assert after["positive"] == after["negative"] != recorded["positive"]


def test_ridge_takes_the_embeddings_of_the_runs_cache(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def pooled(cache: object, prompts: list[str]) -> np.ndarray:
        asked.append((cache.path, prompts))  # type: ignore[attr-defined]
        return np.zeros((len(prompts), 3))

    monkeypatch.setattr("tglo.train.samples.mean_pooled", pooled)
    config = make_config(data={"baseline": "ridge"})
    with pytest.raises(ValueError, match="ridge regression needs 8 prompts or more, got 2"):
        _Data(config)
    assert asked == [(config.data.cache, ["a temple", "a flower"])]


def test_one_image_a_prompt_trains_with_ridge_on_its_own_cache(
    make_config: Make, manifest: Path, sd15: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The same thresholds from `tglo threshold --cache` and from a run; scores that follow the embeddings."""
    folder = Path(shutil.copytree(manifest.parent, tmp_path / "images"))
    shapes, names = ("circle", "square", "tree", "boat"), ("red", "blue", "old", "tall", "far")
    prompts = [f"a {name} {shape}" for shape in shapes for name in names][:12]
    rows = [[prompt, f"{i}.png", "0.5"] for i, prompt in enumerate(prompts)]

    def write() -> None:
        with (folder / "single.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["prompt", "image", "score"], *rows])

    write()
    build(str(sd15), folder / "single.csv", tmp_path / "cache", resolution=16, device="cpu")
    vectors = mean_pooled(LatentCache(tmp_path / "cache"), prompts).astype(np.float64)
    cache = LatentCache(tmp_path / "cache")
    tokens = cache.text(prompts)["prompt_embeds"].float().numpy()
    assert vectors == pytest.approx(tokens.mean(axis=1), abs=1e-5)
    centred = vectors - vectors.mean(axis=0)
    first = np.linalg.svd(centred)[2][0]
    for row, score in zip(rows, centred @ first, strict=True):
        row[2] = repr(float(score))
    write()
    config = make_config(
        data={"manifest": str(folder / "single.csv"), "cache": str(tmp_path / "cache"),
              "baseline": "oracle"},
        objective=RECIPE, optimizer={"steps": 1},
    )  # fmt: skip
    train(config)
    stored = Threshold.load(config.output.folder / "threshold.json")
    assert stored.fit is not None and stored.fit.method == "ridge" and stored.fit.explained > 0.9
    flags = ["--baseline", "oracle", "--output", str(tmp_path / "t.json")]
    command = ["threshold", str(folder / "single.csv"), *flags]
    assert main(command) == 1
    assert "each of the 12 prompts has one score" in capsys.readouterr().err
    assert main([*command, "--cache", str(tmp_path / "cache")]) == 0
    assert Threshold.load(tmp_path / "t.json") == stored
    assert "ridge regression on the embeddings of 12 prompts" in capsys.readouterr().out


def test_one_image_a_prompt_that_embeddings_do_not_explain(
    make_config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = change_manifest(
        make_config(data={"baseline": "oracle"}), tmp_path / "x", lambda r: r[:2]
    )
    with caplog.at_level(logging.INFO, "tglo"):
        train(config)
    assert "every prompt gets the mean of all scores: ridge regression needs 8" in caplog.text
    config = replace(config, data=replace(config.data, baseline="ridge"))
    config = replace(config, output=replace(config.output, folder=tmp_path / "ridge"))
    with pytest.raises(ValueError, match="ridge regression needs 8 prompts or more, got 2"):
        train(config)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"objective": {"name": "kto", "balance": True}},
         "objective.balance changes the weights .* which objective kto has not; leave it out"),
        ({"objective": {"name": "dpo", "weight_normalisation": True}},
         "objective.weight_normalisation changes .* objective dpo has not"),
        ({"data": {"baseline": "oracle", "threshold": "t.json"}},
         "data.baseline = oracle estimates a threshold, but data.threshold = t.json gives one"),
        ({"data": {"baseline": "mean", "percentile": 75.0}},
         "data.percentile is 75, which data.baseline mean does not use"),
        ({"data": {"baseline": "mean", "per_prompt": True}}, "kappa shrinks .* data.baseline is mean"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(
    sections: dict[str, dict[str, object]], message: str, make_config: Make
) -> None:
    with pytest.raises(ValueError, match=message):
        check(make_config(**sections))


def test_toml_has_inf(make_config: Make, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    for text in ("inf", '"inf"'):
        path.write_text(f"[objective]\nconfidence = {text}\n")
        config = load_config(path)
        assert config.objective.confidence == math.inf
        assert to_plain(config)["objective"]["confidence"] == "inf"
    path.write_text("[objective]\nconfidence = -inf\n")
    with pytest.raises(
        ValueError, match="confidence is -inf; it must be from 0 to 1e\\+09, or inf"
    ):
        check(make_config(objective={"confidence": -math.inf}))


def test_every_row_keeps_its_side_and_the_file_is_stored(make_config: Make) -> None:
    config = make_config(data={"baseline": "oracle"}, objective=RECIPE, optimizer={"steps": 1})
    train(config)
    stored = Threshold.load(config.output.folder / "threshold.json")
    assert set(stored.per_prompt) == {"a temple", "a flower"} and stored.baseline == "oracle"
    again = make_config(
        folder="again", data={"threshold": str(config.output.folder / "threshold.json")},
        objective=RECIPE, optimizer={"steps": 1},
    )  # fmt: skip
    train(again)
    assert_same(final_weights(config.output.folder), final_weights(again.output.folder))
    with config.data.manifest.open() as file:
        assert len(list(csv.DictReader(file))) == stored.count
