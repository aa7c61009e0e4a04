"""Z-Image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from tglo.models.families.flow import FlowFamily, Imported
from tglo.models.families.model import Denoiser, Tensors
from tglo.models.text import TextPart


class ZImage(FlowFamily):
    """Transformer conditioned on the last states but one of Qwen3, real tokens only.

    It is told 1 - sigma for a timestep, and answers with x0 - eps.
    """

    name = "z-image"
    default_side = 128
    pipeline_class: ClassVar[Any] = Imported("ZImagePipeline")
    denoiser_class: ClassVar[Any] = Imported("ZImageTransformer2DModel")
    architectures: ClassVar[dict[str, Any]] = {
        "z-image": ({}, {"latent_channels": 16, "block_out_channels": [128, 256, 512, 512]}),
    }
    published = tuple(architectures)
    text_parts = (
        TextPart(
            *("tokenizer", "text_encoder", 512),
            padded=False,
            thinking=True,
            model_type="qwen3",
            classes=("Qwen3Model", "Qwen3ForCausalLM"),
        ),
    )
    text_widths: ClassVar[dict[str, dict[str, int]]] = {"cap_feat_dim": {"text_encoder": 1}}
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    least_guidance = 0.0
    on_host = ("prompt_mask",)

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensors:
        """Return prompt_embeds (B, L, width) and prompt_mask (B, L)."""
        ids, mask = self._tokens(prompts, 0)
        mask = mask.bool()
        output = self.text_encoders[0](
            input_ids=ids, attention_mask=mask, output_hidden_states=True
        )
        hidden = output.hidden_states[-2] * mask.unsqueeze(-1)
        return {"prompt_embeds": hidden, "prompt_mask": mask}

    def call(
        self, denoiser: Denoiser, noisy: Tensor, timesteps: Tensor, conditions: Tensors
    ) -> Tensor:
        """See Family.call; latents and embeddings are converted to the denoiser's dtype."""
        dtype = self.dtype_of(denoiser)
        lengths = conditions["prompt_mask"].sum(1).tolist()
        embeddings = conditions["prompt_embeds"].to(dtype)
        prompts = [row[:length] for row, length in zip(embeddings, lengths, strict=True)]
        images = list(noisy.to(dtype).unsqueeze(2).unbind(0))
        answers = denoiser(images, (1000 - timesteps) / 1000, prompts, return_dict=False)[0]
        return -torch.stack(list(answers)).squeeze(2)

    def guide(self, empty: Tensor, prompted: Tensor, scale: float) -> Tensor:
        """See Model.guide; the scale counts from the prompt's prediction."""
        return prompted + scale * (prompted - empty)

    def example_text(self, batch: int) -> Tensors:
        return self._example_prompt(batch, self.denoiser.config.cap_feat_dim)
