"""The numbers that each key of a configuration may be; the table that `config_checks.check` goes through."""

from __future__ import annotations

from tglo.settings import COUNT, FRACTION, SAMPLING, SEED, Limit

LIMITS: dict[str, Limit] = {
    "seed": SEED,
    "model.lora_rank": Limit(1, 4096),
    "model.lora_alpha": Limit(0, 1e6, above=True),
    "model.lora_dropout": Limit(0, 0.99),
    "data.percentile": Limit(0, 100),
    "data.kappa": Limit(0, 1e12),
    "data.caption_dropout": FRACTION,
    "data.draws": Limit(0, 2**32 - 1),
    "data.draw_seed": SEED,
    "data.guidance": Limit(0, 1000),
    "objective.beta": Limit(0, 1e9, above=True),
    "objective.temperature": Limit(0, 1e9, above=True),
    "objective.confidence": Limit(0, 1e9, endless=True),
    "objective.min_snr_gamma": Limit(0, 1e9, above=True),
    "objective.kto.positive_weight": Limit(0, 1e9),
    "objective.kto.negative_weight": Limit(0, 1e9),
    "optimizer.steps": COUNT,
    "optimizer.learning_rate": Limit(0, 100, above=True),
    "optimizer.warmup_steps": Limit(0),
    "optimizer.beta1": Limit(0, 1, below=True),
    "optimizer.beta2": Limit(0, 1, below=True),
    # 0 divides nothing by nothing where a gradient is 0, as a LoRA's first one is.
    "optimizer.epsilon": Limit(0, 1, above=True),
    "optimizer.weight_decay": Limit(0, 100),
    "optimizer.max_gradient_norm": Limit(0, 1e30),
    "optimizer.micro_batch": COUNT,
    "optimizer.accumulation": COUNT,
    "optimizer.ema_decay": Limit(0, 0.999999),
    "output.save_every": COUNT,
    "output.keep": COUNT,
    "output.log_every": COUNT,
    "output.validation_every": COUNT,
    "output.validation_steps": SAMPLING["steps"],
    "output.validation_guidance": SAMPLING["guidance"],
    "output.validation_height": SAMPLING["height"],
    "output.validation_width": SAMPLING["width"],
    "output.validation_frames": SAMPLING["frames"],
}
