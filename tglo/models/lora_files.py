"""LoRA files, as a pipeline's `load_lora_weights` or a denoiser's own `load_lora_adapter` takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from diffusers.utils import convert_state_dict_to_diffusers, logging
from safetensors import safe_open

from tglo.files import reading, write_tensors
from tglo.models import lora


def check(path: Path) -> None:
    """Raise ValueError unless a LoRA's folder (or file) is there with whole safetensors files."""
    if not path.exists():
        raise ValueError(f"{path} does not exist; give the folder or file of a LoRA")
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or files[0].suffix != ".safetensors":
        raise ValueError(
            f"{path} is no LoRA: it holds no safetensors file, and pickles are never loaded"
        )
    for file in files:
        with reading(file, "LoRA", "export or download it again"), safe_open(file, "pt"):
            pass


def write_for_pipeline(folder: Path, denoiser: Any, pipeline_class: Any, part: str) -> None:
    """Write a denoiser's LoRA by the pipeline's own `save_lora_weights`.

    part: the denoiser's name in the pipeline.
    """
    weights = lora.state_dict(denoiser)
    if part == "unet":  # whose LoRAs have names of their own; a transformer's keep peft's
        weights = convert_state_dict_to_diffusers(weights)
    pipeline_class.save_lora_weights(
        folder,
        **{
            f"{part}_lora_layers": weights,
            # Without it a loader takes alpha = rank.
            f"{part}_lora_adapter_metadata": _sorted_sets(lora.config(denoiser).to_dict()),
        },
    )
    # Again, because safetensors writes several entries of metadata in any order.
    with safe_open(folder / LORA_WEIGHT_NAME_SAFE, "pt") as file:
        weights = {name: file.get_tensor(name) for name in sorted(file.keys())}
        metadata = file.metadata()
    write_tensors(folder / LORA_WEIGHT_NAME_SAFE, weights, metadata)


def attach_by_pipeline(folder: Path, pipeline_class: Any, parts: Mapping[str, Any]) -> None:
    """Load a folder's LoRA into a denoiser by the pipeline's own `load_lora_weights`.

    parts: the denoiser, and whatever else the pipeline cannot be made without, by name.
    """
    names = pipeline_class._get_signature_keys(pipeline_class)[0]
    # diffusers warns about each text encoder that the LoRA has no weights for.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        pipeline_class(**{**dict.fromkeys(names), **parts}).load_lora_weights(
            folder, use_safetensors=True, local_files_only=True
        )
    finally:
        logging.set_verbosity(verbosity)


def write_for_denoiser(folder: Path, denoiser: Any) -> None:
    """Write a denoiser's LoRA as its own `load_lora_adapter(folder, prefix=None)` takes it.

    diffusers' `save_lora_adapter` does the same with bytes that change: it writes sets in an order of the
    process's own.
    """
    settings = _sorted_sets(lora.config(denoiser).to_dict())
    metadata = {LORA_ADAPTER_METADATA_KEY: json.dumps(settings, sort_keys=True)}
    write_tensors(folder / LORA_WEIGHT_NAME_SAFE, lora.state_dict(denoiser), metadata)


def _sorted_sets(values: dict[str, Any]) -> dict[str, Any]:
    """Sort sets, so that the same LoRA gives the same bytes."""
    return {name: sorted(v) if isinstance(v, set) else v for name, v in values.items()}
