"""An image that is not finite is an error with its cause, and not a black image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tglo.models.families.model import Denoiser, Model


def require_finite(
    model: Model,
    denoiser: Denoiser,
    values: Tensor,
    what: str,
    prompts: Sequence[str],
    seeds: Sequence[int],
) -> None:
    """Raise FloatingPointError, naming prompt, seed and cause, where a row of values (B, ...) has NaN or inf.

    what: a name for the values. prompts, seeds: of the rows.
    """
    finite = values.flatten(1).isfinite().all(1)
    if finite.all():
        return
    bad = (~finite).nonzero().flatten().tolist()
    raise FloatingPointError(
        f"{what} of {len(bad)} of {len(prompts)} images hold NaN or inf, first those of prompt "
        f"{prompts[bad[0]]!r} with seed {seeds[bad[0]]}: {_cause(model, denoiser)}"
    )


def _cause(model: Model, denoiser: Denoiser) -> str:
    parts: list[tuple[str, Any]] = [(model.denoiser_part, denoiser), (model.vae_part, model.vae)]
    encoders = zip(model.text_parts, model.text_encoders, strict=True)
    for name, module in [*parts, *((part.encoder, encoder) for part, encoder in encoders)]:
        for weight, values in module.named_parameters() if isinstance(module, nn.Module) else ():
            if not values.isfinite().all():
                lora = " (of a LoRA)" if "lora_" in weight else ""
                return (
                    f"{weight} of {model.path / name}{lora} is not finite. These weights are "
                    "damaged, or their training went wrong; download or make them again"
                )
    kind = model.device.type
    autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
    if torch.float16 in (model.dtype, autocast):
        return "fp16 overflows above 65504; use bf16 or fp32"
    return "all weights are finite, so the model overflows here; use fp32, or less guidance"
