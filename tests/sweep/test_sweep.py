"""A sweep: a grid of real trainings over one reference cache, resumed, tabled and drawn."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.conftest import (  # noqa: F401  (fixtures)
    caches,
    make_config,
    manifest,
    sd15,
    sdxl,
    write_toml,
)
from tglo import cli
from tglo.cache.drawer import DrawRule
from tglo.cache.make import build_reference
from tglo.files import read_json
from tglo.settings import SamplingOptions
from tglo.sweep import Sampling, parse_variations, points, sweep
from tglo.sweep import run as run_module
from tglo.train import TrainConfig

Make = Callable[..., TrainConfig]


def test_variations_are_parsed_as_toml_values() -> None:
    texts = ["objective.beta=0.5,1,2", "objective.temperature=auto,0.1", "output.resume=true"]
    assert parse_variations(texts) == {
        "objective.beta": [0.5, 1, 2],
        "objective.temperature": ["auto", 0.1],
        "output.resume": [True],
    }


@pytest.mark.parametrize("text", ["objective.beta", "=1,2", "objective.beta=", "seed=1,1"])
def test_a_variation_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"varies nothing|only once"):
        parse_variations([text])


def test_points_are_the_grid_and_errors_name_the_key(make_config: Make, tmp_path: Path) -> None:
    variations = {"objective.beta": [0.5, 2], "optimizer.micro_batch": [1, 2, 3]}
    grid = points(make_config(), variations, tmp_path)
    assert [(p.config.objective.beta, p.config.optimizer.micro_batch) for p in grid] == [
        (0.5, 1), (0.5, 2), (0.5, 3), (2, 1), (2, 2), (2, 3)
    ]  # fmt: skip
    assert len({point.config.output.folder for point in grid}) == 6
    assert grid[0].name == "beta-0.5_micro_batch-1"
    with pytest.raises(ValueError, match=r"unknown key objective.bta; nearest: beta"):
        points(make_config(), {"objective.bta": [1]}, tmp_path)
    with pytest.raises(ValueError, match=r"objective.beta is -1"):
        points(make_config(), {"objective.beta": [-1]}, tmp_path)
    with pytest.raises(ValueError, match=r"seed is a value, not a table"):
        points(make_config(), {"seed.x": [1]}, tmp_path)


def test_a_recipe_and_an_infinite_confidence_vary(make_config: Make, tmp_path: Path) -> None:
    texts = ["objective.confidence=5,inf", "recipe=published,tglo"]
    grid = points(make_config(), parse_variations(texts), tmp_path)
    found = [(p.config.objective.confidence, p.config.data.baseline) for p in grid]
    assert found == [(c, b) for c in (5.0, float("inf")) for b in ("percentile", "oracle")]
    assert json.dumps([point.values for point in grid], allow_nan=False)


@pytest.fixture
def cached(make_config: Make, caches: dict[Path, Path], sd15: Path, tmp_path: Path) -> TrainConfig:
    errors = tmp_path / "errors"
    rule = DrawRule(seed=0, caption_dropout=0.1, draws=2, stratified=True)
    build_reference(str(sd15), caches[sd15], errors, rule, device="cpu", progress=False)
    return make_config(
        optimizer={"steps": 3},
        objective={"reference": "cached"},
        data={"reference_cache": str(errors)},
    )


def test_one_command_trains_samples_and_draws_the_grid(
    cached: TrainConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "prompts.txt").write_text("a temple\na flower\n")
    toml = write_toml(cached, tmp_path / "run.toml")
    command = [
        "sweep", str(toml), "--output", str(tmp_path / "sweep"), "--vary",
        "objective.beta=0.5,2", "objective.confidence=0,5,9", "optimizer.learning_rate=1e-3,1e-2",
        "--prompts", str(tmp_path / "prompts.txt"), "--scorer", "ink",
        "--count", "2", "--steps", "2", "--guidance", "1", "--device", "cpu",
    ]  # fmt: skip
    variations = {
        "objective.beta": [0.5, 2],
        "objective.confidence": [0, 5, 9],
        "optimizer.learning_rate": [1e-3, 1e-2],
    }
    # A kill after five of the twelve runs: the same command resumes and keeps them.
    done: list[str] = []
    train = run_module.train

    def watched(config: TrainConfig) -> object:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(config.output.folder.name)
        return train(config)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "train", watched)
        assert cli.main(command) == 130
    assert len(read_json(tmp_path / "sweep" / "sweep.json")["rows"]) == 5
    again: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "train", lambda c: again.append(c.output.folder.name) or train(c))
        assert cli.main(command) == 0, capsys.readouterr().err
    assert len(again) == 7 and not set(again) & set(done)

    content = read_json(tmp_path / "sweep" / "sweep.json")
    assert content["variations"] == variations and content["base"]["count"] == 4
    scores = [row["scores"]["mean"] for row in content["rows"]]
    assert len(scores) == 12 and np.isfinite(scores).all() and len({*scores}) > 1
    assert "Base model: mean score" in capsys.readouterr().out
    with (tmp_path / "sweep" / "sweep.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["score"]) for row in table] == scores
    for row, mean in zip(content["rows"], scores, strict=True):
        apart = row["difference"]  # of the same prompts and seeds
        assert apart["value"] == pytest.approx(mean - content["base"]["mean"])
        assert apart["low"] <= apart["value"] <= apart["high"]
    assert [float(row["minus base"]) for row in table] == [
        row["difference"]["value"] for row in content["rows"]
    ]
    shown = (tmp_path / "sweep" / "sweep.md").read_text()
    assert "| score | minus base |" in shown and "standard error" not in shown
    assert [row["objective.beta"] for row in table] == ["0.5"] * 6 + ["2"] * 6
    picture = np.asarray(Image.open(tmp_path / "sweep" / "sweep.png").convert("RGB"))
    assert picture.shape[1] > picture.shape[0] and len(np.unique(picture)) > 50


def test_beta_and_temperature_act_as_their_ratio(cached: TrainConfig, tmp_path: Path) -> None:
    variations = {"objective.beta": [1, 2], "objective.temperature": [0.05, 0.1]}
    rows = sweep(cached, variations, tmp_path / "sweep")
    loss = {tuple(row["values"].values()): row["metrics"]["loss"] for row in rows}
    assert loss[1, 0.05] == pytest.approx(loss[2, 0.1], rel=1e-6)
    assert loss[1, 0.05] != pytest.approx(loss[1, 0.1], rel=1e-6)
    assert all("scores" not in row for row in rows)


def test_another_sampling_is_sampled_and_other_settings_are_refused(
    cached: TrainConfig, tmp_path: Path
) -> None:
    output, grid = tmp_path / "sweep", {"objective.beta": [1]}
    options = SamplingOptions(2, 1.0)
    sampling = Sampling(tmp_path / "prompts.txt", "ink", count=1, options=options, device="cpu")
    sampling.prompts.write_text("a temple\n")
    assert "scores" not in sweep(cached, grid, output)[0]
    first = sweep(cached, grid, output, sampling=sampling)[0]
    assert first["scores"]["count"] == 1
    assert first["difference"] is None  # one prompt has no interval
    other = sweep(cached, grid, output, sampling=replace(sampling, seed=7))[0]
    assert other["scores"]["mean"] != first["scores"]["mean"]
    assert sweep(cached, grid, output, sampling=sampling)[0] == first
    faster = replace(cached, optimizer=replace(cached.optimizer, learning_rate=0.1))
    with pytest.raises(
        ValueError, match=r"other settings \(optimizer.learning_rate is 0.001, not 0.1"
    ):
        sweep(faster, grid, output)


def test_only_marked_objectives_are_sampled_behind_their_marker(make_config: Make) -> None:
    marked = make_config(objective={"name": "csft", "good_marker": "fine: "})
    assert marked.objective.prompt_prefix == "fine: "
    assert make_config(objective={"name": "sft"}).objective.prompt_prefix == ""


@pytest.mark.timeout(200)
def test_trainings_may_be_started_by_a_launcher(cached: TrainConfig, tmp_path: Path) -> None:
    alone = sweep(cached, {"objective.beta": [1]}, tmp_path / "alone")
    launched = sweep(
        cached, {"objective.beta": [1]}, tmp_path / "launched", launch=f"{sys.executable} -m"
    )
    assert alone[0]["metrics"]["loss"] == launched[0]["metrics"]["loss"]
    with pytest.raises(RuntimeError, match="ended with status 1; the same sweep resumes"):
        sweep(cached, {"seed": [1]}, tmp_path / "refused", launch=f"{sys.executable} -m")


def test_a_point_kept_under_an_older_key_goes_on_under_the_new(
    make_config: Make, tmp_path: Path
) -> None:
    config = make_config(objective={"name": "kto"}, output={"export": False})
    output = tmp_path / "sweep"
    (old,) = sweep(config, {"objective.positive_weight": [2.0]}, output)
    (new,) = sweep(config, {"objective.kto.positive_weight": [2.0]}, output)
    assert new["metrics"] == old["metrics"]
    assert new["values"] == {"objective.kto.positive_weight": 2.0}


def test_what_can_only_fail_at_the_end_is_refused_at_the_start(
    make_config: Make, tmp_path: Path
) -> None:
    sampling = Sampling(tmp_path / "prompts.txt", "ink", count=1, device="cpu")
    sampling.prompts.write_text("a temple\n")
    grid = {"objective.beta": [1]}
    with pytest.raises(
        ValueError, match=r"output\.export is off, .* turn it on, or give no scorer"
    ):
        config = make_config(output={"export": False})
        sweep(config, grid, tmp_path / "sweep", sampling=sampling)
    with pytest.raises(ValueError, match="did you mean 'ink'"):
        sweep(make_config(), grid, tmp_path / "sweep", sampling=replace(sampling, scorer="inc"))
    assert not (tmp_path / "sweep").exists()


def test_a_changed_result_is_refused(make_config: Make, tmp_path: Path) -> None:
    config = make_config(optimizer={"steps": 1}, output={"export": False})
    (output, grid) = tmp_path / "sweep", {"objective.beta": [1]}
    (expected,) = sweep(config, grid, output)
    result = output / "beta-1/result.json"
    content = json.loads(result.read_text())
    content["row"]["metrics"]["loss"] += 1.0
    result.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"result\.json is damaged .*checksum\): remove it"):
        sweep(config, grid, output)
    del content["seal"]
    content["row"] = expected
    result.write_text(json.dumps(content))  # as an earlier version wrote it
    assert sweep(config, grid, output) == [expected]


@pytest.mark.parametrize("content", ["", "[]", "{", "{}", '{"sampling": {}, "row": [1]}'])
def test_a_result_of_another_form_is_named(make_config: Make, tmp_path: Path, content: str) -> None:
    config = make_config(optimizer={"steps": 1}, output={"export": False})
    (output, grid) = tmp_path / "sweep", {"objective.beta": [1]}
    (expected,) = sweep(config, grid, output)
    result = output / "beta-1/result.json"
    result.write_text(content)
    with pytest.raises(ValueError, match=r"result\.json is damaged .*: remove it"):
        sweep(config, grid, output)
    result.unlink()
    assert sweep(config, grid, output) == [expected]
    result.unlink()
    (output / "beta-1/metrics.jsonl").write_text(f'{{"step": 0}}\n{content}')  # of an earlier step
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged .*: remove .*beta-1"):
        sweep(config, grid, output)


def test_a_password_in_a_scorers_url_is_not_kept(tmp_path):
    scorer = "x=http://me:geheim@host/a?token=geheim"
    plain = Sampling(tmp_path / "p.txt", scorer).plain()
    assert plain["scorer"] == "x=http://***@host/a?token=***"
