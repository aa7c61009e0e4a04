"""The strength of each layer of a LoRA's file, alpha / rank, where the file states alphas one by one (kohya's layout).

diffusers keeps the alphas of a UNet's attention layers, and of text encoders, under names that match no layer, and
gives all of these the commonest alpha of the file. Here each layer gets its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from diffusers.utils.state_dict_utils import StateDictType
from torch import Tensor

_TEXT = "text_encoder"


def in_peft_names(part: str, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return entries that start with the part's name by PEFT's names, without it; those that have PEFT's already stay
    as they are.
    """
    prefix = f"{part}."
    weights = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    if not part.startswith(_TEXT):
        return convert_unet_state_dict_to_peft(weights)
    named = convert_state_dict_to_peft(weights, original_type=StateDictType.DIFFUSERS_OLD)
    # Of the projection, which no table of diffusers' has in this layout.
    return {
        n.replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B."): w
        for n, w in named.items()
    }


def settings(
    part: str, weights: Mapping[str, Tensor], alphas: Mapping[str, Any] | None, root: str = ""
) -> dict[str, Any]:
    """Return PEFT's settings for a part's weights in PEFT's names.

    alphas: by diffusers' names of any kind, with the part's in front, ending in ".alpha". A layer without one, or
    with 0, has alpha = rank, as in kohya's scripts. root: what `weights` lack in front of their names.
    """
    ranks = {
        name.partition(".lora_B")[0]: weight.shape[1]
        for name, weight in weights.items()
        if ".lora_B" in name and weight.ndim > 1
    }
    named = {name.removesuffix(".alpha"): alpha for name, alpha in (alphas or {}).items()}
    stated = {
        name.removeprefix(root).partition(".lora_")[0]: float(value)
        for name, value in in_peft_names(part, named).items()
    }
    for layer, alpha in stated.items():
        if not math.isfinite(alpha):
            raise ValueError(f"the alpha of {layer} is {alpha}")
    strengths = {layer: stated.get(layer) or float(rank) for layer, rank in ranks.items()}
    rank, alpha = (Counter(of.values()).most_common(1)[0][0] for of in (ranks, strengths))
    return {
        "r": rank,
        "lora_alpha": alpha,
        # "^": the whole name, not the end of another's
        "rank_pattern": {f"^{layer}": r for layer, r in ranks.items() if r != rank},
        "alpha_pattern": {f"^{layer}": a for layer, a in strengths.items() if a != alpha},
        "target_modules": sorted({name.partition(".lora_")[0] for name in weights}),
        "use_dora": any("lora_magnitude_vector" in name for name in weights),
        "lora_bias": any("lora_B" in name and name.endswith(".bias") for name in weights),
    }
