"""Checks of a configuration: values that cannot work, alone or together."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

from tglo.models.families.base import Family
from tglo.objectives import OBJECTIVES
from tglo.plan.limits import zero_problem
from tglo.train.config import EngineConfig, OptimizerConfig, TrainConfig, reference_mode


def check(config: TrainConfig) -> None:
    """Raise ValueError, with the value, the limit and the remedy, for the first that cannot work.

    Looks at nothing but the configuration: call it before anything is loaded.
    """
    model, data, objective = config.model, config.data, config.objective
    engine = config.engine
    for key in ("model.path", "data.manifest", "data.cache", "output.folder"):
        if attrgetter(key)(config) in ("", Path()):
            raise ValueError(f"{key} is required: set it in the TOML file or as --{key} VALUE")
    limits: dict[str, tuple[int, float | None]] = {
        "seed": (0, 2**32 - 1),
        "model.lora_rank": (1, 4096),
        "model.lora_dropout": (0, 0.99),
        "data.percentile": (0, 100),
        "data.caption_dropout": (0, 1),
        "data.draws": (0, 2**32 - 1),
        "data.draw_seed": (0, 2**32 - 1),
        "data.kappa": (0, None),
        "objective.confidence": (0, None),
        "optimizer.steps": (1, None),
        "optimizer.warmup_steps": (0, config.optimizer.steps),
        "optimizer.micro_batch": (1, None),
        "optimizer.accumulation": (1, None),
        "optimizer.ema_decay": (0, 0.999999),
        "optimizer.max_gradient_norm": (0, None),
        "output.save_every": (1, None),
        "output.keep": (1, None),
        "output.log_every": (1, None),
        "output.validation_every": (1, None),
    }
    for key, (low, high) in limits.items():
        number = attrgetter(key)(config)
        if number is not None and not (low <= number and (high is None or number <= high)):
            limit = f"at least {low}" if high is None else f"from {low} to {high}"
            raise ValueError(f"{key} is {number}; it must be {limit}")
    for key in ("objective.beta", "objective.min_snr_gamma", "optimizer.learning_rate"):
        number = attrgetter(key)(config)
        if not isinstance(number, str) and not 0 < number < float("inf"):
            raise ValueError(f"{key} is {number}; it must be positive and finite")
    temperature = objective.temperature
    if not isinstance(temperature, str) and not 0 < temperature < float("inf"):
        raise ValueError(
            f"objective.temperature is {temperature}; it must be positive, or auto or default"
        )
    if data.threshold is not None and data.per_prompt:
        raise ValueError(
            f"data.per_prompt estimates a threshold, but data.threshold = {data.threshold} gives one; "
            "leave one out (`tglo threshold --per-prompt` writes a file with a threshold per prompt)"
        )
    OBJECTIVES[objective.name].check(config)
    if objective.reference == "adapter-off" and model.train == "full":
        raise ValueError(
            "objective.reference = adapter-off needs model.train = lora; else use copy"
        )
    if data.stratified and not data.draws and reference_mode(config) != "cached":
        raise ValueError(
            "data.stratified needs data.draws: how many draws of a sample are to cover the schedule"
        )
    if objective.update_reference_every_epoch and reference_mode(config) != "copy":
        raise ValueError(
            "objective.update_reference_every_epoch needs objective.reference = copy: "
            "switching the LoRA off, or a cache, always gives the first reference back"
        )
    if engine.kind == "plain" and engine.zero_stage:
        raise ValueError(
            f"engine.zero_stage is {engine.zero_stage} but engine.kind is plain; use deepspeed"
        )
    _check_speed(config.optimizer, engine)
    # Without ZeRO the engine may be the plain one, unless DeepSpeed is asked for.
    plain = engine.kind != "deepspeed" and not engine.zero_stage
    check_zero(config, None if plain else engine.zero_stage)


def check_zero(config: TrainConfig, stage: int | None) -> None:
    """Raise ValueError for settings that DeepSpeed cannot combine at a ZeRO stage; None: not with it."""
    problem = zero_problem(
        config.optimizer.name,
        stage,
        precision=config.engine.precision,
        offload_optimizer=config.engine.offload_optimizer,
        offload_parameters=config.engine.offload_parameters,
    )
    if problem is not None:
        raise ValueError(problem)


def check_family(config: TrainConfig, family: type[Family]) -> None:
    """Raise ValueError for settings that the model's family cannot work with."""
    for (key, value), reason in family.unsupported.items():
        if attrgetter(key)(config) == value:
            raise ValueError(f"{key} is {value}, which does not fit {family.name}: {reason}")


def _check_speed(optimizer: OptimizerConfig, engine: EngineConfig) -> None:
    if engine.cuda_graphs and engine.compile != "whole":
        raise ValueError(
            f"engine.cuda_graphs needs engine.compile = whole, which is {engine.compile}"
        )
    if engine.cuda_graphs and (engine.kind == "deepspeed" or engine.device == "cpu"):
        raise ValueError(
            f"engine.cuda_graphs needs engine.kind = plain and a CUDA device, not {engine.kind} on "
            f"{engine.device}; set cuda_graphs = false"
        )
    if engine.cuda_graphs and optimizer.accumulation > 1:
        raise ValueError(
            f"engine.cuda_graphs needs optimizer.accumulation = 1, which is {optimizer.accumulation}: "
            "each micro step would be recorded apart; raise micro_batch, or set cuda_graphs = false"
        )
    if engine.compile != "none" and engine.zero_stage == 3:
        raise ValueError(
            f"engine.compile is {engine.compile} and zero_stage 3: DeepSpeed gathers weights inside "
            "the forward pass, which breaks the graph at every layer; use zero_stage 2 or "
            "compile = none"
        )
