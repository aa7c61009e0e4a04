"""A LoRA's weights for text encoders, as they go from the file that training started from into its export.

Training leaves them as they are: prompts were embedded with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor

_ROOT = "text_model."  # in files; newer versions of transformers' CLIP have no such level


@dataclass(frozen=True)
class TextLora:
    """The LoRA of one text encoder."""

    down: dict[str, Tensor]
    up: dict[str, Tensor]
    alpha: dict[str, float]

    def diffusers(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the weights by diffusers' names for text encoders."""
        return {
            f"{_named(name)}.lora_linear_layer.{ending}.weight": weight.to(dtype)
            for ending, weights in (("down", self.down), ("up", self.up))
            for name, weight in weights.items()
        }

    def kohya(self, prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the weights in kohya's layout."""
        weights: dict[str, Tensor] = {}
        for name, alpha in self.alpha.items():
            flat = f"{prefix}_{_named(name).replace('.', '_')}"
            weights[f"{flat}.lora_down.weight"] = self.down[name].to(dtype)
            weights[f"{flat}.lora_up.weight"] = self.up[name].to(dtype)
            weights[f"{flat}.alpha"] = torch.tensor(alpha)
        return weights

    def settings(self) -> dict[str, Any]:
        """Return PEFT's settings of it, without which a loader would take alpha = rank."""
        ranks = {name: len(weight) for name, weight in self.down.items()}
        rank = Counter(ranks.values()).most_common(1)[0][0]
        alpha = Counter(self.alpha.values()).most_common(1)[0][0]
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]  # peft only divides by the rank
            target_modules=sorted(ranks),
            rank_pattern={n: r for n, r in ranks.items() if r != rank},
            alpha_pattern={n: a for n, a in self.alpha.items() if a != alpha},
        )
        return {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}


def of(model: Any) -> Mapping[str, TextLora]:
    """Return the text encoders' weights of the LoRA that a model started from, by part; {} if it has none.

    The encoders are read for it: they know which layers a file means, and how strongly.
    """
    found = model.text_lora
    if found is None:
        return {}
    texts = {}
    for part in found.text_parts:
        encoder = model.read_encoder(part, torch.float32)
        layers: dict[str, Any] = {
            n: m for n, m in encoder.named_modules() if isinstance(m, LoraLayer)
        }
        texts[part] = TextLora({}, {}, {})
        for name, layer in layers.items():
            adapter = next(iter(layer.lora_A))
            down, up = (m[adapter].weight.detach().cpu() for m in (layer.lora_A, layer.lora_B))
            texts[part].down[name], texts[part].up[name] = down.contiguous(), up.contiguous()
            texts[part].alpha[name] = float(layer.scaling[adapter]) * len(down)
    return texts


def _named(layer: str) -> str:
    return layer if layer.startswith(_ROOT) else _ROOT + layer
