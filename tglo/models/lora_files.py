"""LoRA files, as a pipeline's `load_lora_weights` or a denoiser's own `load_lora_adapter` takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from diffusers.utils import convert_state_dict_to_diffusers
from safetensors import safe_open
from torch import Tensor

from tglo.files import reading, write_tensors
from tglo.models import lora
from tglo.models.lora_reading import Found
from tglo.models.lora_texts import TextLora

_DORA = ".dora_scale"


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
        with reading(file, "LoRA", "export or download it again"), safe_open(file, "pt") as opened:
            names = list(opened.keys())
        dora = next((name for name in names if name.endswith(_DORA)), None)
        if dora is not None:
            raise ValueError(
                f"{file} is a DoRA in kohya's layout (it has {dora}), which diffusers reads without its norms; "
                "merge it into its base with the program that made it, and give that base as the model"
            )


def write_for_pipeline(
    folder: Path,
    denoiser: Any,
    pipeline_class: Any,
    part: str,
    texts: Mapping[str, TextLora],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a denoiser's LoRA, and text encoders', by the pipeline's own `save_lora_weights`.

    part: the denoiser's name in the pipeline.
    """
    weights = _in(dtype, lora.state_dict(denoiser))
    if part == "unet":  # whose LoRAs have names of their own; a transformer's keep peft's
        weights = _by_one_scheme(weights)
    pipeline_class.save_lora_weights(
        folder,
        **{
            f"{part}_lora_layers": weights,
            # Without it a loader takes alpha = rank.
            f"{part}_lora_adapter_metadata": _sorted_sets(lora.config(denoiser).to_dict()),
            **{f"{name}_lora_layers": text.diffusers(dtype) for name, text in texts.items()},
            **{f"{name}_lora_adapter_metadata": text.settings() for name, text in texts.items()},
        },
    )
    # Again, because safetensors writes several entries of metadata in any order.
    with safe_open(folder / LORA_WEIGHT_NAME_SAFE, "pt") as file:
        weights = {name: file.get_tensor(name) for name in sorted(file.keys())}
        metadata = file.metadata()
    write_tensors(folder / LORA_WEIGHT_NAME_SAFE, weights, metadata)


def write_for_denoiser(folder: Path, denoiser: Any, dtype: torch.dtype = torch.float32) -> None:
    """Write a denoiser's LoRA as its own `load_lora_adapter(folder, prefix=None)` takes it.

    diffusers' `save_lora_adapter` does the same with bytes that change: it writes sets in an order of the
    process's own.
    """
    settings = _sorted_sets(lora.config(denoiser).to_dict())
    metadata = {LORA_ADAPTER_METADATA_KEY: json.dumps(settings, sort_keys=True)}
    write_tensors(folder / LORA_WEIGHT_NAME_SAFE, _in(dtype, lora.state_dict(denoiser)), metadata)


def _by_one_scheme(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a UNet's LoRA by diffusers' older names, or by peft's where it has layers that they do not cover.

    A loader judges all names by the first, so that of a mixture a part would be lost.
    """
    older: dict[str, Tensor] = convert_state_dict_to_diffusers(weights)
    return weights if any(".lora_A." in name for name in older) else older


def _in(dtype: torch.dtype, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.to(dtype) for name, weight in weights.items()}


def read_for_denoiser(path: Path, part: str) -> Found:
    """Read what `write_for_denoiser` wrote, under the part's name."""
    file = next(iter(sorted(path.glob("*.safetensors")))) if path.is_dir() else path
    with reading(file, "LoRA", "export or download it again"), safe_open(file, "pt") as opened:
        weights = {f"{part}.{name}": opened.get_tensor(name) for name in opened.keys()}
        text = (opened.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY)
        settings = None if text is None else json.loads(text)
    if settings is not None:
        settings = {f"{part}.{name}": value for name, value in settings.items()}
    return Found(path, weights, None, settings)


def _sorted_sets(values: dict[str, Any]) -> dict[str, Any]:
    """Sort sets, so that the same LoRA gives the same bytes."""
    return {name: sorted(v) if isinstance(v, set) else v for name, v in values.items()}
