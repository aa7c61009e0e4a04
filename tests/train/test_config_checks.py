"""Checks that name the key, the value and the remedy."""

from __future__ import annotations

import pytest

from tglo.train.config import TrainConfig
from tglo.train.config_checks import check
from tglo.train.config_files import parse_config

COMPLETE = {
    "model": {"path": "./model"},
    "data": {"manifest": "scores.csv", "cache": "cache"},
    "output": {"folder": "run"},
}


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
        (
            {"objective": {"update_reference_every_epoch": True, "reference": "copy"}},
            "needs model.train = full",
        ),
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
