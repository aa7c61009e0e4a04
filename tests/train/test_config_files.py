"""Configurations from files and keys: strict, with the nearest of what is unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tglo.train.config import ModelConfig, ObjectiveConfig
from tglo.train.config_files import load_config, parse_config, put, to_plain

COMPLETE = {
    "model": {"path": "./model"},
    "data": {"manifest": "scores.csv", "cache": "cache"},
    "output": {"folder": "run"},
}


def test_toml_becomes_the_dataclasses(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'seed = 3\n[model]\npath = "./m"\ntrain = "full"\n[objective]\ntemperature = "auto"\n'
        '[optimizer]\nlearning_rate = 1\n[output]\ntrackers = ["tensorboard"]\n'
    )
    config = load_config(file)
    assert config.seed == 3 and config.model == ModelConfig(path="./m", train="full")
    assert config.objective.temperature == "auto"
    assert config.optimizer.learning_rate == 1.0
    assert config.output.trackers == ("tensorboard",)


def test_plain_data_and_back() -> None:
    config = parse_config(COMPLETE | {"objective": {"temperature": 0.1}})
    assert parse_config(to_plain(config)) == config


def test_older_keys_stand_where_they_belong_now() -> None:
    old = {"positive_weight": 2.0, "negative_weight": 3.0, "good_marker": "g ", "bad_marker": "b "}
    config = parse_config({"objective": {"name": "kto", **old}})
    constants = config.objective.constants
    assert (constants.positive_weight, constants.negative_weight) == (2.0, 3.0)
    plain = to_plain(config)["objective"]
    assert plain["csft"] == {"good_marker": "g ", "bad_marker": "b "}
    assert not old.keys() & plain.keys()
    put(plain := to_plain(config), "objective.positive_weight", 4.0)
    assert parse_config(plain).objective.constants.positive_weight == 4.0
    with pytest.raises(ValueError, match=r"positive_weight is now objective\.kto\.positive_weight"):
        parse_config({"objective": {"positive_weight": 1.0, "kto": {"positive_weight": 1.0}}})


def test_an_objective_has_its_own_table() -> None:
    config = parse_config({"objective": {"name": "csft", "csft": {"good_marker": "fine: "}}})
    assert config.objective.constants.good_marker == config.objective.prompt_prefix == "fine: "
    assert ObjectiveConfig(name="dpo").constants is None
    with pytest.raises(
        ValueError, match=r"objective\.kto\.positve_weight; nearest: positive_weight"
    ):
        parse_config({"objective": {"kto": {"positve_weight": 1.0}}})
    with pytest.raises(ValueError, match=r"\[objective\.kto\] must be a table, got 3"):
        parse_config({"objective": {"kto": 3}})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"objective": {"temprature": 1}}, r"objective\.temprature; nearest: temperature"),
        ({"objective": {"positive_weigth": 1}}, r"nearest: .*kto\.positive_weight"),
        ({"optimizer": {"beta": 1}}, r"unknown key optimizer\.beta; there is objective\.beta"),
        ({"learning_rate": 1}, r"unknown key learning_rate; there is optimizer\.learning_rate"),
        ({"objectve": {}}, r"unknown key objectve; nearest: objective"),
        ({"optimizer": {"steps": "many"}}, r"Expected `int`, got `str` - at `\$\.optimizer\.steps"),
        ({"model": {"train": "adapter"}}, r"model\.train is 'adapter'; valid: full, lora"),
        ({"objective": {"name": "dpos"}}, r"objective\.name is 'dpos'; nearest: dpo, "),
        (
            {"objective": {"name": "diffusion"}},
            r"valid: tgo, sft, csft, kto, bco, qrpo, dpo, sdpo, dspo, lair",
        ),
        ({"model": "x"}, r"\[model\] must be a table"),
        ({"data": {"cache": 3}}, r"expected a path as text, got 3"),
    ],
)
def test_wrong_keys_and_types_are_named(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(data)


def test_broken_or_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[model\n")
    with pytest.raises(ValueError, match=r"bad\.toml is damaged or no TOML file \(.*line 1.*UTF-8"):
        load_config(tmp_path / "bad.toml")
