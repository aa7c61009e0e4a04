"""Configuration: strict TOML, flags, checks that name key, value and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tglo.train.config import (
    EngineConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TrainConfig,
    reference_mode,
)
from tglo.train.config_checks import check
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
        ({"objectve": {}}, r"unknown key objectve; nearest: objective"),
        ({"optimizer": {"steps": "many"}}, r"Expected `int`, got `str` - at `\$\.optimizer\.steps"),
        ({"model": {"train": "adapter"}}, r"model\.train is 'adapter'; valid: full, lora"),
        ({"objective": {"name": "dpos"}}, r"objective\.name is 'dpos'; nearest: dpo, dspo, qrpo"),
        ({"objective": {"name": "diffusion"}}, r"valid: tgo, sft, csft, kto, bco, qrpo, dpo, dspo"),
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
    with pytest.raises(ValueError, match=r"bad\.toml is not valid TOML"):
        load_config(tmp_path / "bad.toml")


def test_required_values_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"model\.path is required.*--model\.path"):
        check(TrainConfig())
    check(parse_config(COMPLETE))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"optimizer": {"steps": 0}}, "optimizer.steps is 0; it must be at least 1"),
        ({"optimizer": {"learning_rate": 0.0}}, "learning_rate is 0.0; it must be positive"),
        ({"objective": {"temperature": -1.0}}, "temperature is -1.0; it must be positive"),
        (
            {"data": {**COMPLETE["data"], "percentile": 101.0}},
            "percentile is 101.0; it must be from 0 to 100",
        ),
        ({"engine": {"kind": "plain", "zero_stage": 2}}, "engine.kind is plain; use deepspeed"),
        ({"engine": {"offload_parameters": True}}, "needs zero_stage 3, which is 0"),
        ({"objective": {"update_reference_every_epoch": True}}, "needs objective.reference = copy"),
        ({"engine": {"cuda_graphs": True}}, "needs engine.compile = whole, which is none"),
        (
            {
                "engine": {"cuda_graphs": True, "compile": "whole", "device": "cuda"},
                "optimizer": {"accumulation": 2},
            },
            "needs optimizer.accumulation = 1, which is 2",
        ),
        (
            {"data": {"manifest": "m.csv", "cache": "c", "stratified": True}},
            "data.stratified needs data.draws",
        ),
        (
            {"engine": {"cuda_graphs": True, "compile": "whole", "device": "cpu"}},
            "needs engine.kind = plain and a CUDA device, not auto on cpu",
        ),
        (
            {"engine": {"compile": "blocks", "zero_stage": 3}},
            "compile is blocks and zero_stage 3: .*use zero_stage 2",
        ),
        (
            {"optimizer": {"name": "adafactor"}, "engine": {"zero_stage": 1}},
            "adafactor and zero_stage 1: .*use zero_stage 0 or adamw",
        ),
        (
            {
                "optimizer": {"name": "adamw8bit"},
                "engine": {"zero_stage": 2, "offload_optimizer": True},
            },
            "adamw8bit, zero_stage 2 and offload_optimizer True: .*use adamw",
        ),
    ],
)
def test_values_that_cannot_work(section: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(parse_config(COMPLETE | section))


def test_adapter_off_needs_an_adapter() -> None:
    config = parse_config(
        COMPLETE
        | {
            "model": {"path": "./m", "train": "full"},
            "objective": {"reference": "adapter-off"},
        }
    )
    with pytest.raises(ValueError, match="needs model.train = lora"):
        check(config)


def test_reference_mode_follows_what_is_trained() -> None:
    assert reference_mode(TrainConfig(model=ModelConfig(train="lora"))) == "adapter-off"
    assert reference_mode(TrainConfig(model=ModelConfig(train="full"))) == "copy"
    assert reference_mode(TrainConfig(objective=ObjectiveConfig(name="sft"))) == "none"
    both = TrainConfig(model=ModelConfig(train="lora"), objective=ObjectiveConfig(reference="copy"))
    assert reference_mode(both) == "copy"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"engine": {"cuda_graphs": True, "compile": "whole"}}, "engine.kind = plain only"),
        ({"engine": {"channels_last": "on"}}, "DeepSpeed takes contiguous weights only"),
        (
            {"optimizer": {"name": "adafactor"}, "engine": {"precision": "bf16"}},
            "adafactor and engine.precision bf16",
        ),
    ],
)
def test_what_a_launcher_rules_out(
    section: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tglo.train.engines.choose import start_processes

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    config = parse_config(COMPLETE | section)
    check(config)
    with pytest.raises(ValueError, match=message):
        start_processes(config)


def test_deepspeed_config_follows(tmp_path: Path) -> None:
    from tglo.train.engines.deepspeed import deepspeed_config

    config = TrainConfig(
        optimizer=OptimizerConfig(micro_batch=3, accumulation=5, max_gradient_norm=0.5),
        engine=EngineConfig(zero_stage=3, precision="bf16", offload_parameters=True),
    )
    result = deepspeed_config(config)
    assert result["train_micro_batch_size_per_gpu"] == 3
    assert result["gradient_accumulation_steps"] == 5
    assert result["gradient_clipping"] == 0.5
    assert result["zero_optimization"]["stage"] == 3
    assert result["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert result["bf16"]["enabled"] and not result["fp16"]["enabled"]
