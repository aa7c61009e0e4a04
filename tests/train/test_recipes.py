"""A recipe is written out in the configuration, wherever it is named; keys that are set themselves win."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tglo.commands import train as command
from tglo.train import TrainConfig, train
from tglo.train.config_files import load_config, parse_config, put, to_plain
from tglo.train.recipes import RECIPES, recipe_line

Make = Callable[..., TrainConfig]


def settings(config: TrainConfig) -> tuple[object, ...]:
    chosen = config.objective
    return (config.data.baseline, chosen.confidence, chosen.weight_normalisation, chosen.balance)


PUBLISHED = ("percentile", 5.0, False, False)
OURS = ("oracle", math.inf, True, False)


def test_published_is_the_default_and_changes_nothing() -> None:
    assert parse_config({}) == parse_config({"recipe": "published"}) == TrainConfig()
    assert settings(TrainConfig()) == PUBLISHED
    assert RECIPES["published"].keys() == RECIPES["tglo"].keys()
    assert recipe_line(TrainConfig()) == "recipe published"


def test_a_recipe_is_written_out_and_stored() -> None:
    config = parse_config({"recipe": "tglo"})
    assert settings(config) == OURS and recipe_line(config) == "recipe tglo"
    assert to_plain(config)["objective"]["confidence"] == "inf"
    assert parse_config(to_plain(config)) == config


def test_keys_that_are_set_win() -> None:
    config = parse_config({"recipe": "tglo", "objective": {"confidence": 20.0}})
    assert settings(config) == ("oracle", 20.0, True, False)
    assert recipe_line(config) == "recipe tglo, but objective.confidence = 20.0"


def test_objectives_without_weights_take_the_baseline_alone() -> None:
    config = parse_config({"recipe": "tglo", "objective": {"name": "kto"}})
    assert settings(config) == ("oracle", 5.0, False, False)
    assert recipe_line(config) == "recipe tglo"


def test_a_threshold_from_a_file_is_told() -> None:
    config = parse_config({"recipe": "tglo", "data": {"threshold": "t.json"}})
    assert settings(config) == ("percentile", *OURS[1:])
    assert recipe_line(config) == "recipe tglo, but threshold from t.json"


def test_a_sweep_may_vary_it() -> None:
    plain = to_plain(TrainConfig())
    put(plain, "recipe", "tglo")
    assert settings(parse_config(plain)) == OURS
    put(plain, "recipe", "published")
    assert parse_config(plain) == TrainConfig()


@pytest.mark.parametrize("form", [["--recipe", "tglo"], ["--recipe=tglo"]])
def test_a_flag_wins_over_the_file_and_other_flags_over_it(
    form: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "run.toml", []
    path.write_text("[objective]\nconfidence = 2.0\nbalance = true\n")

    def run(config: TrainConfig) -> None:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("tglo.train.train", run)
    for flags in (form, [*form, "--objective.balance"]):
        with pytest.raises(KeyboardInterrupt):
            command.train_with([str(path), *flags])
    assert [settings(config) for config in seen] == [OURS, (*OURS[:3], True)]
    assert seen[0].recipe == "tglo"


def test_an_unknown_recipe_is_named() -> None:
    with pytest.raises(ValueError, match="recipe is 'tglo2'; nearest: tglo"):
        parse_config({"recipe": "tglo2"})
    with pytest.raises(ValueError, match=r"\[objective\] must be a table"):
        parse_config({"recipe": "tglo", "objective": 3})


def test_a_run_says_which_it_is(make_config: Make, caplog: pytest.LogCaptureFixture) -> None:
    made = to_plain(make_config(optimizer={"steps": 1}))
    put(made, "recipe", "tglo")
    with caplog.at_level(logging.INFO, "tglo"):
        result = train(parse_config(made))
    assert "recipe tglo" in caplog.messages
    stored = load_stored(result.folder)
    assert settings(stored) == OURS and stored.recipe == "tglo"


def load_stored(folder: Path) -> TrainConfig:
    import json

    return parse_config(json.loads((folder / "config.json").read_text()))


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('recipe = "tglo"\nseed = 3\n')
    assert settings(load_config(path)) == OURS
