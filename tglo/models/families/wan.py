"""Wan 2.1 text to video, and the 5B model of Wan 2.2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from tglo.models.families.flow import Imported
from tglo.models.families.model import Denoiser, Tensors
from tglo.models.families.video import VideoFamily
from tglo.models.text import TextPart

_TOKENS = 512
_VAE = {
    "z_dim": 16,
    "temperal_downsample": [False, True, True],
    "scale_factor_spatial": 8,
    "scale_factor_temporal": 4,
}
_VAE_22 = {**_VAE, "z_dim": 48, "scale_factor_spatial": 16}


class Wan(VideoFamily):
    """Transformer on patches of 1 x 2 x 2 latents, conditioned on UMT5's states.

    A prompt's states are followed by zeros up to 512, which are attended to. Wan 2.2's pipeline tells its 5B model
    the timestep of every patch. In text to video they are all the same, and one a video gives the same answer
    without a modulation for each patch: in training some 40% of all activations.
    """

    name = "wan"
    default_frames = 81
    frame_rate = 16.0
    pipeline_class: ClassVar[Any] = Imported("WanPipeline")
    denoiser_class: ClassVar[Any] = Imported("WanTransformer3DModel")
    architectures: ClassVar[dict[str, Any]] = {
        "wan21-1.3b": ({"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, _VAE),
        "wan21-14b": ({"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}, _VAE),
        "wan22-5b": (
            {
                **{"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30},
                **{"in_channels": 48, "out_channels": 48},
            },
            _VAE_22,
        ),
    }
    published = tuple(architectures)
    text_parts = (
        TextPart(
            *("tokenizer", "text_encoder", _TOKENS),
            padded=False,
            model_type="umt5",
            classes=("UMT5EncoderModel",),
        ),
    )
    text_widths: ClassVar[dict[str, dict[str, int]]] = {"text_dim": {"text_encoder": 1}}
    unused_parts: ClassVar[dict[str, Any]] = {"transformer_2": None}
    explicit_sigmas = False

    @property
    def default_size(self) -> tuple[int, int]:
        return (480, 832) if self.spatial_scale == 8 else (704, 1280)

    def _check_parts(self) -> None:
        if getattr(self, "pipeline_config", {}).get("boundary_ratio") is not None:
            raise ValueError(
                f"{self.path} has two transformers, one for much noise and one for little; take a model "
                "with one, such as Wan 2.1 or Wan 2.2's 5B"
            )
        super()._check_parts()

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensors:
        """Return prompt_embeds (B, L, width) and prompt_mask (B, L)."""
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        ids, mask = self._tokens([prompt_clean(prompt) for prompt in prompts], 0)
        hidden = self.text_encoders[0](ids, mask).last_hidden_state
        return {"prompt_embeds": hidden * mask.unsqueeze(-1), "prompt_mask": mask.bool()}

    def call(
        self, denoiser: Denoiser, noisy: Tensor, timesteps: Tensor, conditions: Tensors
    ) -> Tensor:
        """See Family.call; latents (B, C, F, h, w) and embeddings are converted to the denoiser's dtype."""
        dtype = self.dtype_of(denoiser)
        prompt = conditions["prompt_embeds"].to(dtype)
        return denoiser(
            hidden_states=noisy.to(dtype),
            timestep=timesteps,
            encoder_hidden_states=pad(prompt, (0, 0, 0, _TOKENS - prompt.shape[1])),
            return_dict=False,
        )[0]

    def example_text(self, batch: int) -> Tensors:
        return self._example_prompt(batch, self.denoiser.config.text_dim)
