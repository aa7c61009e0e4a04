"""DeepSpeed's configuration of a run."""

from __future__ import annotations

from tglo.train.config import EngineConfig, OptimizerConfig, TrainConfig
from tglo.train.engines.deepspeed import deepspeed_config


def test_deepspeed_config_follows() -> None:
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
