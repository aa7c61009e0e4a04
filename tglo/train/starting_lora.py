"""The LoRA that training starts from (model.lora), and what the reference has of it (model.lora_reference).

"start": the reference has the LoRA as it was in the file, so that policy and reference are one at first, as in every
other run; for data that the model made with it. "base": the reference is the bare model; for data of that.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from tglo.models import lora
from tglo.models.families.base import Family
from tglo.models.fingerprint import file_digest
from tglo.models.lora_reading import Found
from tglo.train import processes
from tglo.train.config import ModelConfig, TrainConfig, reference_mode

log = logging.getLogger("tglo")


def digest(config: TrainConfig) -> dict[str, str]:
    """Return what tells runs apart by their LoRA, {} for one that starts from none."""
    model = config.model
    if model.lora is None:
        return {}
    return {"lora": f"{model.lora_reference} {file_digest(model.lora)}"}


def reference_fingerprint(config: TrainConfig) -> dict[str, str]:
    """Return what cached errors of this run's reference depend on by its LoRA."""
    model = config.model
    if model.lora is None or model.lora_reference == "base":
        return {}
    return {"lora": file_digest(model.lora)}


def open_lora(config: TrainConfig, family: Family) -> Found | None:
    """Read the LoRA and give the text encoders their weights of it; ValueError for one of another model."""
    if config.model.lora is None:
        return None
    found = family.read_lora(config.model.lora)
    family.use_text_lora(found)
    return found


def start(config: TrainConfig, family: Family, found: Found) -> TrainConfig:
    """Put the LoRA on the denoiser; return the configuration with its rank and alpha.

    ValueError where others were asked for.
    """
    model = config.model
    family.start_from_lora(found, model.lora_dropout, config.seed)
    settings = lora.config(family.denoiser)
    rank, alpha = int(settings.r), float(settings.lora_alpha)
    for key, asked, there in (
        ("lora_rank", model.lora_rank, rank),
        ("lora_alpha", model.lora_alpha, alpha),
    ):
        if asked not in (there, getattr(ModelConfig, key)):
            raise ValueError(
                f"model.{key} is {asked:g}, but the LoRA in {model.lora} has {there:g}; leave model.{key} out, or "
                f"set it to {there:g}"
            )
    if config.output.export:
        processes.on_main(lambda: family.check_lora_export(config.output.folder / "export"))
    if processes.rank() == 0:
        log.info("%s", _told(config, rank, alpha, found))
    if reference_mode(config) == "adapter-off" and model.lora_reference == "start":
        lora.keep_reference(family.denoiser)
    return replace(config, model=replace(model, lora_rank=rank, lora_alpha=alpha))


def _told(config: TrainConfig, rank: int, alpha: float, found: Found) -> str:
    model = config.model
    start = f"starting from the LoRA {model.lora} (rank {rank}, alpha {alpha:g})"
    if found.text_parts:
        start += f", whose weights for {' and '.join(found.text_parts)} stay as they are"
    if reference_mode(config) == "none":
        return start
    if model.lora_reference == "start":
        return (
            f"{start}. The reference has it too, as it should be where the images were made with it; for images "
            "of the bare model set model.lora_reference = base"
        )
    return (
        f"{start}. The reference is the bare model; where the images were made with the LoRA, set "
        "model.lora_reference = start"
    )


def check(config: TrainConfig) -> None:
    """Raise ValueError for settings of it that cannot be."""
    model: Any = config.model
    if model.lora is None and model.lora_reference != "start":
        raise ValueError(
            f"model.lora_reference is {model.lora_reference}, but there is no model.lora; leave it out, or give the "
            "LoRA that training starts from"
        )
    if model.lora is not None and model.train != "lora":
        raise ValueError(
            f"model.lora is {model.lora}, where the training of a LoRA starts, but model.train is {model.train}; "
            "set model.train = lora"
        )
