"""FLUX.2, dev and [klein]."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor

from tglo.models.codecs import PatchCodec
from tglo.models.families.flow import FlowFamily, Imported
from tglo.models.families.model import Denoiser, Tensors
from tglo.models.text import TextPart, load_tokenizer
from tglo.settings import SamplingOptions

_TOKENS = 512
_VAE = {"latent_channels": 32, "block_out_channels": [128, 256, 512, 512]}
_KLEIN_4B = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
_KLEIN_9B = {
    **_KLEIN_4B,
    "num_layers": 8,
    "num_single_layers": 24,
    "num_attention_heads": 32,
    "joint_attention_dim": 12288,
}


def _system() -> str:
    """Return the pipeline's own words before each prompt."""
    from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

    return str(SYSTEM_MESSAGE)


class Flux2Family(FlowFamily):
    """Transformer on patches of latents, conditioned on the states of three layers of a language model.

    Padding is attended to, so embeddings keep their full length.
    """

    default_side = 64
    denoiser_class: ClassVar[Any] = Imported("Flux2Transformer2DModel")
    layers: ClassVar[tuple[int, ...]]
    """Of the language model: those whose states stand side by side."""
    text_widths: ClassVar[dict[str, dict[str, int]]] = {"joint_attention_dim": {"text_encoder": 3}}
    codec_class = PatchCodec
    patch = 1
    lora_targets = (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "to_qkv_mlp_proj"),
    )

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensors:
        """Return prompt_embeds (B, 512, 3 widths): the three layers' states side by side."""
        ids, mask = self._tokens(prompts, 0)
        output = self.text_encoders[0](
            input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False
        )
        return {"prompt_embeds": torch.cat([output.hidden_states[k] for k in self.layers], dim=-1)}

    def step_options(self, options: SamplingOptions) -> dict[str, Any]:
        """See FlowFamily.step_options; the shift depends on the number of steps too."""
        pipeline: Any = import_module(self.pipeline_class.__module__)
        tokens = self.image_tokens(*options.size)
        shift = pipeline.compute_empirical_mu(image_seq_len=tokens, num_steps=options.steps)
        return super().step_options(options) | {"mu": shift}

    def call(
        self, denoiser: Denoiser, noisy: Tensor, timesteps: Tensor, conditions: Tensors
    ) -> Tensor:
        """See Family.call; latents and embeddings are converted to the denoiser's dtype."""
        dtype = self.dtype_of(denoiser)
        prompt = conditions["prompt_embeds"].to(dtype)
        with noisy.device:  # made there: a copy from the CPU would wait for a GPU
            text_ids = self.pipeline_class._prepare_text_ids(prompt)
            image_ids = self.pipeline_class._prepare_latent_ids(noisy)
        packed = denoiser(
            hidden_states=self.pipeline_class._pack_latents(noisy.to(dtype)),
            timestep=timesteps / 1000,
            guidance=self._guidance(conditions, timesteps),
            encoder_hidden_states=prompt,
            txt_ids=text_ids,
            img_ids=image_ids,
            return_dict=False,
        )[0]
        return packed.transpose(1, 2).reshape(noisy.shape)

    def example_text(self, batch: int) -> Tensors:
        width = self.denoiser.config.joint_attention_dim
        return {"prompt_embeds": self._random(batch, _TOKENS, width)}


class Flux2(Flux2Family):
    """FLUX.2 dev, with Mistral 3. The guidance is distilled into it: a number, and no second pass."""

    name = "flux2"
    pipeline_class: ClassVar[Any] = Imported("Flux2Pipeline")
    architectures: ClassVar[dict[str, Any]] = {"flux2-dev": ({}, _VAE)}
    published = tuple(architectures)
    text_parts = (
        TextPart(
            *("tokenizer", "text_encoder", _TOKENS),
            system=_system,
            model_type="mistral3",
            classes=("Mistral3ForConditionalGeneration",),
        ),
    )
    layers = (10, 20, 30)
    guidance_in_model = True

    def text_settings(self) -> dict[str, str]:
        """Return the system's words; see Model.text_settings."""
        return {"system": _system()}

    def text(self, prompts: Sequence[str]) -> Tensors:
        """See Flux2Family.text; the token of an image in a prompt is left out, as in the pipeline."""
        return super().text([prompt.replace("[IMG]", "") for prompt in prompts])

    def _given_parts(self, dtype: torch.dtype, left_out: Collection[str]) -> dict[str, Any]:
        # The folder's is a processor, which needs torchvision for images to come.
        return {**super()._given_parts(dtype, left_out), "tokenizer": None}

    def _load_parts(self, dtype: torch.dtype, encoders: bool) -> dict[str, Any]:
        parts = super()._load_parts(dtype, encoders)
        return {**parts, "tokenizer": load_tokenizer(self.path / "tokenizer")}


class Flux2Klein(Flux2Family):
    """FLUX.2 [klein], with Qwen3 and classifier-free guidance.

    The distilled models have no second pass, whatever the guidance.
    """

    name = "flux2-klein"
    pipeline_class: ClassVar[Any] = Imported("Flux2KleinPipeline")
    architectures: ClassVar[dict[str, Any]] = {
        "flux2-klein-4b": (_KLEIN_4B, _VAE),
        "flux2-klein-9b": (_KLEIN_9B, _VAE),
    }
    published = tuple(architectures)
    text_parts = (
        TextPart(
            *("tokenizer", "text_encoder", _TOKENS),
            thinking=False,
            model_type="qwen3",
            classes=("Qwen3ForCausalLM",),
        ),
    )
    layers = (9, 18, 27)

    @property
    def guidance_in_model(self) -> bool:  # type: ignore[override]
        """The folder says whether the model is distilled."""
        return bool(self.pipeline_config.get("is_distilled", False))

    @property
    def has_guidance(self) -> bool:
        return not self.guidance_in_model
