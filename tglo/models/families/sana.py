"""SANA."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from tglo.data import ragged
from tglo.models.codecs import DeepCodec
from tglo.models.families.flow import FlowFamily, Imported
from tglo.models.families.model import Denoiser, Tensors
from tglo.models.text import TextPart, tokenize

_TOKENS = 300


class Sana(FlowFamily):
    """Linear transformer on deeply compressed latents, conditioned on Gemma2, padding masked out."""

    name = "sana"
    pipeline_class: ClassVar[Any] = Imported("SanaPipeline")
    denoiser_class: ClassVar[Any] = Imported("SanaTransformer2DModel")
    architectures: ClassVar[dict[str, Any]] = {
        "sana-1600m": (
            {},
            {"latent_channels": 32, "encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024]},
        ),
    }
    published = tuple(architectures)
    text_parts = (
        TextPart(
            *("tokenizer", "text_encoder", _TOKENS),
            padded=False,
            model_type="gemma2",
            classes=("Gemma2Model",),
        ),
    )
    text_widths: ClassVar[dict[str, dict[str, int]]] = {"caption_channels": {"text_encoder": 1}}
    codec_class = DeepCodec
    explicit_sigmas = False
    lora_targets = ("to_q", "to_k", "to_v")

    def instruction(self) -> str:
        """Return the pipeline's own words before each prompt; guidance's empty one has none."""
        parameters = inspect.signature(self.pipeline_class.__call__).parameters
        return "\n".join(parameters["complex_human_instruction"].default)

    def text_settings(self) -> dict[str, str]:
        """Return the instruction; see Model.text_settings."""
        return {"instruction": self.instruction()}

    @property
    def patch(self) -> int:  # type: ignore[override]
        return int(self.denoiser.config.patch_size)

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensors:
        """Return prompt_embeds (B, L, width) and prompt_mask (B, L): the start token's, then those from the
        instruction's last token on. Prompts are in lower case, as in the pipeline.
        """
        rows: list[Tensors] = [{} for _ in prompts]
        for instructed in (True, False):
            places = [i for i, prompt in enumerate(prompts) if bool(prompt) is instructed]
            if places:
                found = self._encoded([prompts[i] for i in places], instructed)
                for i, row in zip(places, ragged.rows_of(found), strict=True):
                    rows[i] = row
        return ragged.stack(rows)

    def text_lengths(self, prompts: Sequence[str]) -> list[int]:
        """See Model.text_lengths; of the instruction, the start token alone counts."""
        part, before = self._part(instructed=True)
        _, mask = tokenize(part, self.tokenizers[0], _plain(prompts))
        _, of_empty = tokenize(self.text_parts[0], self.tokenizers[0], [""])
        lengths = (mask.sum(1) - before).tolist()
        return [
            length if prompt else int(of_empty.sum())
            for prompt, length in zip(prompts, lengths, strict=True)
        ]

    def _part(self, instructed: bool) -> tuple[TextPart, int]:
        """Return how prompts are tokenized, and the tokens before them that are left out."""
        part = self.text_parts[0]
        if not instructed:
            return part, 0
        before = len(self.tokenizers[0].encode(self.instruction())) - 2
        return part._replace(length=before + _TOKENS, template=self.instruction() + "{}"), before

    def _encoded(self, prompts: Sequence[str], instructed: bool) -> Tensors:
        self.need_encoders()
        part, before = self._part(instructed)
        tokens = tokenize(part, self.tokenizers[0], _plain(prompts), self.prompts)
        ids, mask = (tensor.to(self.device) for tensor in tokens)
        encoder = self.text_encoders[0]
        hidden = encoder(ids, attention_mask=mask)[0].to(encoder.dtype)
        kept = [0, *range(before + 1, ids.shape[1])]
        hidden, mask = hidden[:, kept], mask[:, kept].bool()
        return {"prompt_embeds": hidden * mask.unsqueeze(-1), "prompt_mask": mask}

    def call(
        self, denoiser: Denoiser, noisy: Tensor, timesteps: Tensor, conditions: Tensors
    ) -> Tensor:
        """See Family.call; latents and embeddings are converted to the denoiser's dtype."""
        dtype = self.dtype_of(denoiser)
        return denoiser(
            noisy.to(dtype),
            encoder_hidden_states=conditions["prompt_embeds"].to(dtype),
            encoder_attention_mask=conditions["prompt_mask"],
            timestep=timesteps * self.denoiser.config.timestep_scale,
            return_dict=False,
        )[0]

    def example_text(self, batch: int) -> Tensors:
        return self._example_prompt(batch, self.denoiser.config.caption_channels)


def _plain(prompts: Sequence[str]) -> list[str]:
    return [prompt.lower().strip() for prompt in prompts]
