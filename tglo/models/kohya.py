"""LoRAs in the layout of kohya's scripts, which ComfyUI, A1111 and others read: flat names, and an `.alpha` beside
each pair of weights.

Only for models whose files of this layout diffusers reads back, because an export counts when it was read back.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor

from tglo.files import write_tensors
from tglo.models import lora
from tglo.models.lora_texts import TextLora

NAME = "pytorch_lora_weights.safetensors"  # which `load_lora_weights` finds in a folder
_WAN = re.compile(r"(blocks\.\d+)\.attn([12])\.(to_q|to_k|to_v|to_out\.0)")


def _flat(prefix: str) -> Callable[[str], str]:
    return lambda layer: f"{prefix}_{layer.replace('.', '_')}"


def _wan(layer: str) -> str:
    """Return the name in Wan's own code."""
    match = _WAN.fullmatch(layer)
    if match is None:
        raise ValueError(f"layer {layer} has no name in Wan's layout; use --layout diffusers")
    attention = {"1": "self_attn", "2": "cross_attn"}[match[2]]
    return f"diffusion_model.{match[1]}.{attention}.{match[3].removesuffix('.0')[3]}"


# Pipeline -> a layer's name in diffusers -> its name in the file. FLUX: as OneTrainer writes it, where sd-scripts
# have one layer for q, k and v, whose LoRA would take up to five times the space.
LAYOUTS: dict[str, Callable[[str], str]] = {
    "StableDiffusionPipeline": _flat("lora_unet"),
    "StableDiffusionXLPipeline": _flat("lora_unet"),
    "FluxPipeline": _flat("lora_transformer"),
    "QwenImagePipeline": _flat("lora_unet"),
    "ZImagePipeline": _flat("lora_unet"),
    "WanPipeline": _wan,
}


def check(pipeline_class: Any) -> None:
    """Raise ValueError for a pipeline without such a layout."""
    name = getattr(pipeline_class, "__name__", "this model")
    if name not in LAYOUTS:
        raise ValueError(
            f"layout is kohya, which diffusers does not read back for {name}, only for {', '.join(LAYOUTS)}; use "
            "layout = diffusers"
        )


def write(
    folder: Path,
    denoiser: Any,
    pipeline_class: Any,
    part: str,
    texts: Mapping[str, TextLora],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a denoiser's LoRA, and text encoders'."""
    check(pipeline_class)
    name = LAYOUTS[pipeline_class.__name__]
    config = lora.config(denoiser)
    _check_kind(config)
    weights: dict[str, Tensor] = {}
    layers: dict[str, Any] = {
        layer: module
        for layer, module in denoiser.named_modules()
        if isinstance(module, LoraLayer) and lora.ADAPTER in module.lora_A
    }
    alphas = {layer: _alpha(module) for layer, module in layers.items()}
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    for layer, module in layers.items():
        flat = name(layer)
        down, up = (m[lora.ADAPTER].weight.detach().cpu() for m in (module.lora_A, module.lora_B))
        if alphas[layer] != alpha:  # diffusers reads only one alpha of a UNet's attention layers
            up = up * (alphas[layer] / alpha)
        weights[f"{flat}.lora_down.weight"] = down.to(dtype)
        weights[f"{flat}.lora_up.weight"] = up.to(dtype)
        weights[f"{flat}.alpha"] = torch.tensor(alpha)
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(config.r),
        "ss_network_alpha": str(config.lora_alpha),
    }
    for encoder, text in texts.items():
        one = "lora_te" if pipeline_class.__name__ == "StableDiffusionPipeline" else "lora_te1"
        weights |= text.kohya("lora_te2" if encoder == "text_encoder_2" else one, dtype)
    write_tensors(folder / NAME, weights, metadata)


def _alpha(module: Any) -> float:
    """Return the alpha with which alpha / rank is a layer's strength, also where that is scaled otherwise (rsLoRA)."""
    if not module.use_rslora.get(lora.ADAPTER, False):
        return float(module.lora_alpha[lora.ADAPTER])
    return float(module.scaling[lora.ADAPTER] * module.r[lora.ADAPTER])


def _check_kind(config: LoraConfig) -> None:
    """Raise ValueError for a LoRA with more than two matrices a layer."""
    kinds = {"weight norms (DoRA)": config.use_dora, "biases (lora_bias)": config.lora_bias}
    for kind, there in kinds.items():
        if there:
            raise ValueError(
                f"layout is kohya, which is not written of a LoRA with {kind}, such as this one that training "
                "started from; use layout = diffusers"
            )
