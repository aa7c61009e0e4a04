"""The flags of `tglo plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tyro.conf import OmitArgPrefixes

from tglo.console.verbosity import show
from tglo.plan.options import Options

if TYPE_CHECKING:
    from tglo.train import TrainConfig

PUBLISHED = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
    "stabilityai/stable-diffusion-2-1": "sd21",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "stabilityai/stable-diffusion-3-medium-diffusers": "sd3-medium",
    "stabilityai/stable-diffusion-3.5-medium": "sd35-medium",
    "stabilityai/stable-diffusion-3.5-large": "sd35-large",
    "black-forest-labs/FLUX.1-dev": "flux-dev",
    "black-forest-labs/FLUX.1-schnell": "flux-schnell",
    "black-forest-labs/FLUX.2-dev": "flux2-dev",
    "black-forest-labs/FLUX.2-klein-4B": "flux2-klein-4b",
    "black-forest-labs/FLUX.2-klein-base-4B": "flux2-klein-4b",
    "black-forest-labs/FLUX.2-klein-9B": "flux2-klein-9b",
    "black-forest-labs/FLUX.2-klein-base-9B": "flux2-klein-9b",
    "Qwen/Qwen-Image": "qwen-image",
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": "wan21-1.3b",
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": "wan21-14b",
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": "wan22-5b",
    "Lightricks/LTX-Video": "ltx-2b",
}
"""Hub id -> the architecture that is known without its files."""


def plan(options: OmitArgPrefixes[Options] = Options()) -> dict[str, Any]:
    """Work out memory, communication and ZeRO stage of a run before there is a GPU.

    tglo plan RUN.toml takes from the run's file all that is not hardware; flags after it win.

    Args:
        options: The run.
    """
    from tglo.plan.planner import plan as work_out
    from tglo.plan.text import as_json, report

    answer = work_out(options)
    show(report(answer))
    return as_json(answer)


def flags_of(config: TrainConfig) -> dict[str, Any]:
    """Return the flags that a run's configuration answers."""
    from tglo.train.config import reference_mode

    model, optimizer, engine = config.model, config.optimizer, config.engine
    answered: dict[str, Any] = {
        "model": PUBLISHED.get(model.path, model.path) or None,
        "model_config": model.config,
        "long_prompts": model.long_prompts,
        "prompt_chunks": model.prompt_chunks,
        "train": model.train,
        "lora_rank": model.lora_rank,
        "base_weights": model.base_weights,
        "precision": engine.precision,
        "reference": reference_mode(config),
        "optimizer": optimizer.name,
        "ema": optimizer.ema_decay > 0,
        "micro_batch": optimizer.micro_batch,
        "accumulation": optimizer.accumulation,
        "offload_optimizer": engine.offload_optimizer,
        "offload_parameters": engine.offload_parameters,
        "draws": config.data.draws or None,
    }
    if engine.kind != "auto" and model.gradient_checkpointing != "auto":
        answered["zero_stage"] = "plain" if engine.kind == "plain" else engine.zero_stage
        answered["gradient_checkpointing"] = model.gradient_checkpointing
    known = {name: value for name, value in answered.items() if value is not None}
    return {"options": Options(**known)}
