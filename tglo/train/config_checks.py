"""Checks of a configuration: values that cannot work, alone or together."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

from tglo.devices import check_device_name
from tglo.models.families.base import Family
from tglo.noise.density import parse as parse_timesteps
from tglo.objectives import OBJECTIVES
from tglo.ops import BACKENDS
from tglo.plan.limits import zero_problem
from tglo.redaction import refuse_url
from tglo.settings import check_limits, nearest
from tglo.threshold.baselines import check_baseline
from tglo.train import starting_lora
from tglo.train.config import DataConfig, EngineConfig, OptimizerConfig, TrainConfig, reference_mode
from tglo.train.config_limits import LIMITS


def check(config: TrainConfig) -> None:
    """Raise ValueError, with the value, the limit and the remedy, for the first that cannot work.

    Looks at nothing but the configuration: call it before anything is loaded.
    """
    model, data, objective = config.model, config.data, config.objective
    engine = config.engine
    for key in ("model.path", "data.manifest", "data.cache", "output.folder"):
        if attrgetter(key)(config) in ("", Path()):
            raise ValueError(f"{key} is required: set it in the TOML file or as --{key} VALUE")
    _check_numbers(config)
    _check_words(config)
    _check_threshold(data)
    OBJECTIVES[objective.name].check(config)
    if objective.reference == "adapter-off" and model.train == "full":
        raise ValueError(
            "objective.reference = adapter-off needs model.train = lora; else use copy"
        )
    starting_lora.check(config)
    _check_base(config)
    if data.stratified and not data.draws and reference_mode(config) != "cached":
        raise ValueError(
            "data.stratified needs data.draws: how many draws of a sample are to cover the schedule"
        )
    parse_timesteps(data.timesteps, "data.timesteps")
    if objective.update_reference_every_epoch and reference_mode(config) != "copy":
        raise ValueError(
            "objective.update_reference_every_epoch needs objective.reference = copy: "
            "switching the LoRA off, or a cache, always gives the first reference back"
        )
    if objective.update_reference_every_epoch and model.train == "lora":
        raise ValueError(
            "objective.update_reference_every_epoch needs model.train = full: the reference is a copy of the "
            "weights below the LoRA, which never change; leave it out"
        )
    if engine.kind == "plain" and engine.zero_stage:
        raise ValueError(
            f"engine.zero_stage is {engine.zero_stage} but engine.kind is plain; use deepspeed"
        )
    _check_speed(config.optimizer, engine)
    # Without ZeRO the engine may be the plain one, unless DeepSpeed is asked for.
    plain = engine.kind != "deepspeed" and not engine.zero_stage
    check_zero(config, None if plain else engine.zero_stage)


def _check_threshold(data: DataConfig) -> None:
    if data.threshold is not None and data.per_prompt:
        raise ValueError(
            f"data.per_prompt estimates a threshold, but data.threshold = {data.threshold} gives one; "
            "leave one out (`tglo threshold --per-prompt` writes a file with a threshold per prompt)"
        )
    if data.threshold is not None and data.baseline != "percentile":
        raise ValueError(
            f"data.baseline = {data.baseline} estimates a threshold, but data.threshold = "
            f"{data.threshold} gives one; leave one out (`tglo threshold --baseline {data.baseline}` "
            "writes such a file)"
        )
    check_baseline(data.baseline, data.percentile, data.per_prompt, "data.")


def _check_base(config: TrainConfig) -> None:
    kept, precision = config.model.base_weights, config.engine.precision
    if kept != "default" and config.model.train == "full":
        raise ValueError(
            f"model.base_weights is {kept}, of weights below a LoRA, but model.train is full, and weights "
            "that are trained stay fp32; use model.train = lora, or model.base_weights = default (and "
            "optimizer.name = adafactor or ZeRO, if memory is short)"
        )
    if kept == "half" and precision == "fp32":
        raise ValueError(
            "model.base_weights is half, but engine.precision is fp32; use bf16 or fp16, or "
            "model.base_weights = default"
        )


def _check_numbers(config: TrainConfig) -> None:
    values = {key: attrgetter(key)(config) for key in LIMITS}
    check_limits({k: None if isinstance(v, str) else v for k, v in values.items()}, LIMITS)
    warmup, steps = config.optimizer.warmup_steps, config.optimizer.steps
    if warmup > steps:
        raise ValueError(
            f"optimizer.warmup_steps is {warmup}; it must be at most optimizer.steps, which is {steps}"
        )


def _check_words(config: TrainConfig) -> None:
    refuse_url(config.model.path, "model.path")
    refuse_url(config.model.config or "", "model.config")
    for key in ("data.prompt_column", "data.image_column", "data.score_column", "output.project"):
        if not attrgetter(key)(config).strip():
            raise ValueError(f"{key} is empty; give a name, or leave the key out for its default")
    for key in (
        "data.score_pattern",
        "model.revision",
        "model.config",
        "model.variant",
        "model.lora",
        "data.threshold",
        "data.reference_cache",
    ):
        if attrgetter(key)(config) in ("", Path()):
            raise ValueError(f"{key} is empty; leave the key out to do without it")
    check_device_name(config.engine.device, "engine.device")
    backend = config.objective.backend
    if backend not in BACKENDS:
        raise ValueError(f"objective.backend is {backend!r}; {nearest(backend, BACKENDS)}")
    if config.model.attention != "default":
        from tglo.models.execution.attention import check_name

        check_name(config.model.attention, "model.attention")


def check_zero(config: TrainConfig, stage: int | None) -> None:
    """Raise ValueError for settings that DeepSpeed cannot combine at a ZeRO stage; None: not with it."""
    problem = zero_problem(
        config.optimizer.name,
        stage,
        precision=config.engine.precision,
        offload_optimizer=config.engine.offload_optimizer,
        offload_parameters=config.engine.offload_parameters,
        base_weights=config.model.base_weights,
    )
    if problem is not None:
        raise ValueError(problem)


def check_family(config: TrainConfig, family: type[Family]) -> None:
    """Raise ValueError for settings that the model's family cannot work with."""
    for (key, value), reason in family.unsupported.items():
        if attrgetter(key)(config) == value:
            raise ValueError(f"{key} is {value}, which does not fit {family.name}: {reason}")
    constants = config.objective.constants
    safeguard = constants.safeguard if config.objective.name == "tgo" else None
    if safeguard is not None and family.answers_with_error:
        raise ValueError(
            f"objective.tgo.safeguard is {safeguard}, which does not fit {family.name}: it compares "
            "predictions element by element, and masked models answer with log-probabilities; leave it out"
        )


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
