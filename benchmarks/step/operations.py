"""Floating-point operations of a step, counted on tensors without memory.

A multiplication and an addition count as two, as everywhere. What checkpointing computes again does
not count: a rate is of the operations that the result needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step.sizes import TOKENS, ModelSize
from tglo.models import StableDiffusionXL, lora

LORA_RANK = 16


@dataclass(frozen=True)
class Operations:
    """Floating-point operations per sample."""

    full: int
    """The UNet's forward and backward, all weights trained."""
    lora: int
    """The same with a LoRA on its attention."""
    reference: int
    """A forward of the UNet."""
    vae: int
    """Encoding an image."""
    text: int
    """Both text encoders on a prompt."""

    def step(self, train: str, *, reference: bool, online: bool) -> int:
        """Count one sample's step. train: full or lora; reference: whether a reference model predicts;
        online: whether image and prompt are encoded in the step.
        """
        policy = {"full": self.full, "lora": self.lora}[train]
        return policy + reference * self.reference + online * (self.vae + self.text)

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def count(size: ModelSize) -> Operations:
    """Run every part once on the meta device and count."""
    with torch.device("meta"):
        unet, vae, encoders = size.make_unet(), size.make_vae(), size.make_text_encoders()
        side, pixels = size.latent_side, size.resolution
        inputs = (torch.empty(1, 4, side, side), torch.empty(1))
        conditions = {
            "encoder_hidden_states": torch.empty(1, TOKENS, size.text_width),
            "added_cond_kwargs": {
                "text_embeds": torch.empty(1, size.text_2["projection_dim"]),
                "time_ids": torch.empty(1, 6),
            },
        }
        tokens = torch.zeros(1, TOKENS, dtype=torch.int64)

        def policy() -> None:
            unet(*inputs, **conditions).sample.sum().backward()

        full = _counted(policy)
        with torch.no_grad():
            reference = _counted(lambda: unet(*inputs, **conditions))
            image = _counted(lambda: vae.encode(torch.empty(1, 3, pixels, pixels)))
            text = sum([_counted(partial(encoder, tokens)) for encoder in encoders])
        lora.add(unet, LORA_RANK, LORA_RANK, StableDiffusionXL.lora_targets)
        return Operations(full, _counted(policy), reference, image, text)


def _counted(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
