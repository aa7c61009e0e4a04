"""FLUX.2 [klein]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from tglo.models.codecs import PatchCodec
from tglo.models.families.flow import FlowFamily, Imported
from tglo.models.families.model import Denoiser, Tensors
from tglo.models.text import TextPart
from tglo.settings import SamplingOptions

_TOKENS = 512
_LAYERS = (9, 18, 27)


class Flux2Klein(FlowFamily):
    """Transformer on patches of latents, conditioned on the states of three layers of Qwen3.

    Padding is attended to, so embeddings keep their full length. The distilled models have no second
    pass, whatever the guidance.
    """

    name = "flux2-klein"
    default_side = 64
    pipeline_class: ClassVar[Any] = Imported("Flux2KleinPipeline")
    denoiser_class: ClassVar[Any] = Imported("Flux2Transformer2DModel")
    text_parts = (TextPart("tokenizer", "text_encoder", _TOKENS, thinking=False),)
    codec_class = PatchCodec
    patch = 1
    lora_targets = (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "to_qkv_mlp_proj"),
    )

    @property
    def guidance_in_model(self) -> bool:  # type: ignore[override]
        """The folder says whether the model is distilled."""
        return bool(self.pipeline_config.get("is_distilled", False))

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensors:
        """Return prompt_embeds (B, 512, 3 widths): the three layers' states side by side."""
        ids, mask = self._tokens(prompts, 0)
        output = self.text_encoders[0](
            input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False
        )
        return {"prompt_embeds": torch.cat([output.hidden_states[k] for k in _LAYERS], dim=-1)}

    def step_options(self, options: SamplingOptions) -> dict[str, Any]:
        """See FlowFamily.step_options; the shift depends on the number of steps too."""
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        tokens = self.image_tokens(*options.size)
        shift = compute_empirical_mu(image_seq_len=tokens, num_steps=options.steps)
        return super().step_options(options) | {"mu": shift}

    def call(
        self, denoiser: Denoiser, noisy: Tensor, timesteps: Tensor, conditions: Tensors
    ) -> Tensor:
        """See Family.call; latents and embeddings are converted to the denoiser's dtype."""
        dtype, device = self.dtype_of(denoiser), noisy.device
        prompt = conditions["prompt_embeds"].to(dtype)
        packed = denoiser(
            hidden_states=self.pipeline_class._pack_latents(noisy.to(dtype)),
            timestep=timesteps / 1000,
            guidance=None,
            encoder_hidden_states=prompt,
            txt_ids=self.pipeline_class._prepare_text_ids(prompt).to(device),
            img_ids=self.pipeline_class._prepare_latent_ids(noisy).to(device),
            return_dict=False,
        )[0]
        return packed.transpose(1, 2).reshape(noisy.shape)

    def example_text(self, batch: int) -> Tensors:
        width = self.denoiser.config.joint_attention_dim
        return {"prompt_embeds": self._random(batch, _TOKENS, width)}
