"""Qwen-Image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from tglo.models.codecs import FrameCodec
from tglo.models.families.flow import FlowFamily, Imported
from tglo.models.families.model import Denoiser, Tensors
from tglo.models.text import TextPart

_TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
_BEFORE = 34  # tokens of the template before the prompt
_TOKENS = 1024


class QwenImage(FlowFamily):
    """Transformer on packed latents, conditioned on the states of Qwen2.5-VL, padding masked out."""

    name = "qwen-image"
    default_side = 128
    packed = True
    pipeline_class: ClassVar[Any] = Imported("QwenImagePipeline")
    denoiser_class: ClassVar[Any] = Imported("QwenImageTransformer2DModel")
    architectures: ClassVar[dict[str, Any]] = {
        "qwen-image": ({}, {"z_dim": 16, "temperal_downsample": [False, True, True]}),
    }
    published = tuple(architectures)
    text_parts = (
        TextPart(
            *("tokenizer", "text_encoder", _TOKENS + _BEFORE, _TEMPLATE),
            padded=False,
            model_type="qwen2_5_vl",
            classes=("Qwen2_5_VLForConditionalGeneration",),
        ),
    )
    text_widths: ClassVar[dict[str, dict[str, int]]] = {"joint_attention_dim": {"text_encoder": 1}}
    codec_class = FrameCodec

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensors:
        """Return prompt_embeds (B, L, width) and prompt_mask (B, L), from the prompt on."""
        ids, mask = self._tokens(prompts, 0)
        encoder = self.text_encoders[0]
        output = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        hidden, mask = output.hidden_states[-1][:, _BEFORE:], mask[:, _BEFORE:].bool()
        return {"prompt_embeds": hidden * mask.unsqueeze(-1), "prompt_mask": mask}

    def text_lengths(self, prompts: Sequence[str]) -> list[int]:
        """See Model.text_lengths; without the template's start."""
        return [length - _BEFORE for length in super().text_lengths(prompts)]

    def call(
        self, denoiser: Denoiser, noisy: Tensor, timesteps: Tensor, conditions: Tensors
    ) -> Tensor:
        """See Family.call; latents and embeddings are converted to the denoiser's dtype."""
        dtype = self.dtype_of(denoiser)
        batch, channels, height, width = noisy.shape
        packed = denoiser(
            hidden_states=self.pipeline_class._pack_latents(
                noisy.to(dtype).unsqueeze(1), batch, channels, height, width
            ),
            timestep=timesteps / 1000,
            encoder_hidden_states=conditions["prompt_embeds"].to(dtype),
            encoder_hidden_states_mask=conditions["prompt_mask"],
            img_shapes=[[(1, height // 2, width // 2)]] * batch,
            return_dict=False,
        )[0]
        scale = self.spatial_scale
        unpacked = self.pipeline_class._unpack_latents(packed, height * scale, width * scale, scale)
        return unpacked.squeeze(2)

    def guide(self, empty: Tensor, prompted: Tensor, scale: float) -> Tensor:
        """See Model.guide; every token keeps the norm that it has with the prompt alone."""
        guided = super().guide(empty, prompted, scale)
        ratio = self._norms(prompted) / self._norms(guided)
        return guided * ratio.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)

    def _norms(self, prediction: Tensor) -> Tensor:
        return pixel_unshuffle(prediction, self.patch).norm(dim=1, keepdim=True)

    def example_text(self, batch: int) -> Tensors:
        return self._example_prompt(batch, self.denoiser.config.joint_attention_dim)
