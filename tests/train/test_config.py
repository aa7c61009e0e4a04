"""What follows from a configuration."""

from __future__ import annotations

from tglo.train.config import ModelConfig, ObjectiveConfig, TrainConfig, reference_mode


def test_reference_mode_follows_what_is_trained() -> None:
    assert reference_mode(TrainConfig(model=ModelConfig(train="lora"))) == "adapter-off"
    assert reference_mode(TrainConfig(model=ModelConfig(train="full"))) == "copy"
    assert reference_mode(TrainConfig(objective=ObjectiveConfig(name="sft"))) == "none"
    both = TrainConfig(model=ModelConfig(train="lora"), objective=ObjectiveConfig(reference="copy"))
    assert reference_mode(both) == "copy"
