"""The common base of masked generative models (MaskGIT, arXiv 2202.04200): tokens in place of latents, a share
of hidden ones in place of a timestep, and a forward pass that gives the error itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tglo import noise
from tglo.models import lora_files, lora_reading
from tglo.models.autoencoder import Codec, TokenCodec
from tglo.models.families.base import Family
from tglo.models.families.model import Denoiser, Tensors
from tglo.models.modules.token_head import TokenHead
from tglo.models.parts import FROM_DISK
from tglo.models.samplers import Sampler, unmask
from tglo.models.text import TextPart
from tglo.noise import masking
from tglo.noise.draw import Draw, draw_tokens
from tglo.settings import SamplingOptions

AESTHETIC_SCORE = 6.0  # what the pipelines take, and their training took for images without one

_NO_DISTANCE = (
    "it needs the distance of two predictions, and masked models compare log-probabilities; use dpo, "
    "or an objective of single samples"
)
_NO_RESIDUAL = (
    "its safeguard compares predictions element by element, and masked models answer with log-probabilities; "
    "use dpo, or an objective of single samples"
)
_NO_NOISE = "masked tokens have no signal-to-noise ratio; use none"
_NO_LORA = (
    "which computes the loss and can have no LoRA; target other layers, or train the whole model"
)
_UNTRIED = "it was not tried with the loss inside the forward pass; use blocks, or none"


class MaskedFamily(Family):
    """Transformer over VQ tokens, conditioned on a CLIP text encoder's last hidden states but one, its
    projection, and the image's sizes.

    A forward pass with true tokens gives their error, minus the mean log-probability of the hidden
    ones (arXiv 2605.04653), whose default temperature is 1.
    """

    denoiser_part = "transformer"
    vae_part = "vqvae"
    codec_class: ClassVar[type[Codec]] = TokenCodec
    sampler: ClassVar[Sampler] = staticmethod(unmask)
    answers_with_error: ClassVar[bool] = True
    text_parts: ClassVar[tuple[TextPart, ...]] = (TextPart("tokenizer", "text_encoder"),)
    unsupported: ClassVar[dict[tuple[str, str], str]] = {
        **Family.unsupported,
        ("objective.name", "dspo"): _NO_DISTANCE,
        ("objective.name", "sdpo"): _NO_RESIDUAL,
        ("objective.timestep_weight", "min_snr"): _NO_NOISE,
        ("objective.timestep_weight", "sigma_sqrt"): _NO_NOISE,
        ("objective.timestep_weight", "cosmap"): _NO_NOISE,
        ("engine.compile", "whole"): _UNTRIED,
    }

    @abstractmethod
    def arguments(self, pooled: Tensor, timesteps: Tensor) -> Tensors:
        """Return by its names in the denoiser what models do not call alike: the prompts' pooled embeddings
        (B, width), and the timesteps where it takes them.
        """

    def call(
        self,
        denoiser: Denoiser,
        noisy: Tensor,
        timesteps: Tensor,
        conditions: Tensors,
        **known: Tensor,
    ) -> Tensor:
        """Call the denoiser (or a wrapper of it) once on tokens (B, h, w) int64.

        Returns logits (B, V, h, w); with targets (B, h, w) and mask (B, h, w) the error, (B,) float64.
        timesteps: (B,) float32, 1000 x the share of hidden tokens, or a number of the sampler.
        """
        dtype = self.dtype_of(denoiser)
        return denoiser(
            noisy,
            encoder_hidden_states=conditions["encoder_hidden_states"].to(dtype),
            micro_conds=conditions["micro_conds"],
            **self.arguments(conditions["pooled_prompt_embeds"].to(dtype), timesteps),
            **known,
        )

    def draw(
        self,
        stored: Tensors,
        key: noise.Key,
        own: noise.Key,
        strata: int,
        dtype: torch.dtype,
        conditions: Tensors,
        noise: Tensor | None = None,
    ) -> Draw:
        """See Family.draw; tokens have neither a dtype nor a posterior, nor noise."""
        return draw_tokens(stored["tokens"], key, self.schedule, strata, conditions)

    def predict(self, denoiser: Denoiser, draw: Draw) -> Tensor:
        """Compute the error of the draw's true tokens, (B,) float64; for logits, use `call`."""
        known = {"targets": draw.target, "mask": draw.noisy == self.schedule.mask_token}
        return self.call(denoiser, draw.noisy, self.timesteps(draw), draw.conditions, **known)

    def timesteps(self, draw: Draw) -> Tensor:
        """Return 1000 x the share of hidden tokens, (B,) float32."""
        return 1000 * draw.index.float() / draw.noisy[0].numel()

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensors:
        """Return encoder_hidden_states (B, 77, width) and pooled_prompt_embeds (B, width)."""
        ids, _ = self._tokens(prompts, 0)
        encoder = self.text_encoders[0]
        output = encoder(ids, return_dict=True, output_hidden_states=True)
        return {
            "encoder_hidden_states": output.hidden_states[-2].to(encoder.dtype),
            "pooled_prompt_embeds": output.text_embeds.to(encoder.dtype),
        }

    def conditions(self, text: Tensors, sizes: Tensors | None = None) -> Tensors:
        """Return the embeddings and micro_conds (B, 5) float32: the image's width, height, the crop's top,
        left, and an aesthetic score.
        """
        if sizes is None:
            raise ValueError(f"{self.name} needs sizes: original_size and crop, each (B, 2)")
        score = torch.full((len(sizes["crop"]), 1), AESTHETIC_SCORE, device=self.device)
        parts = [sizes["original_size"].flip(1), sizes["crop"], score]
        # They stay float32: bfloat16 would round a side of 1023 pixels to 1024.
        micro = torch.cat([part.to(self.device, torch.float32) for part in parts], dim=1)
        return {**{k: v.to(self.device) for k, v in text.items()}, "micro_conds": micro}

    def _own_parts(self, dtype: torch.dtype) -> dict[str, Any]:
        return {self.denoiser_part: self.load_denoiser(self.path, dtype)}

    def _training_schedule(self) -> masking.MaskSchedule:
        return masking.MaskSchedule.from_scheduler(self.scheduler)

    def _check_parts(self) -> None:
        config, vectors = self.denoiser.config, self.codec.config.get("num_vq_embeddings")
        mask = self.schedule.mask_token
        if config.codebook_size != vectors or not vectors <= mask < config.vocab_size:
            raise ValueError(
                f"the parts in {self.path} do not fit: the transformer answers with "
                f"{config.codebook_size} tokens of {config.vocab_size}, the VQ model has {vectors} and "
                f"the scheduler masks with token {mask}"
            )
        if not self.codec.config.get("lookup_from_codebook"):
            raise ValueError(
                f"{self.path / self.vae_part} decodes no tokens: its config.json lacks "
                '"lookup_from_codebook": true'
            )

    @property
    def patch(self) -> int:
        return 2 if self.denoiser.config.downsample else 1

    @property
    def default_temperature(self) -> float:
        """1: the error is in natural units, of the log-probability of a token."""
        return 1.0

    def temperature(self, published: float | None) -> float:
        """Return the default: published ones belong to square errors."""
        return self.default_temperature

    def example(self, batch: int, height: int, width: int, frames: int | None = None) -> Draw:
        shape = self.latent_shape(height, width, frames)
        generator = torch.Generator().manual_seed(0)
        vectors = self.denoiser.config.codebook_size
        tokens = torch.randint(vectors, (batch, *shape), generator=generator)
        key = noise.Key(0, torch.arange(batch, device=self.device))
        conditions = self._example_conditions(batch, height, width)
        return draw_tokens(tokens.to(self.device), key, self.schedule, 1, conditions)

    def example_text(self, batch: int) -> Tensors:
        hidden, pooled = self._text_widths()
        return {
            "encoder_hidden_states": self._random(batch, 77, hidden),
            "pooled_prompt_embeds": self._random(batch, pooled),
        }

    @abstractmethod
    def _text_widths(self) -> tuple[int, int]:
        """Return the widths of the text encoder's hidden states and of its projection."""

    def step_options(self, options: SamplingOptions) -> dict[str, Any]:
        found: dict[str, Any] = {"num_inference_steps": options.steps}
        if options.choice_temperature is not None:
            found["temperature"] = (options.choice_temperature, 0)
        return found

    def set_loss_backend(self, backend: str) -> None:
        self.denoiser.head.backend = backend

    def write_lora(
        self,
        folder: Path,
        denoiser: Any,
        layout: str = "diffusers",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Write a LoRA for `pipe.transformer.load_lora_adapter(folder, prefix=None)`: the pipeline itself
        loads none.
        """
        lora_files.write_for_denoiser(folder, denoiser, dtype or torch.float32)

    def attach_lora(
        self, folder: Path, denoiser: Any, *, plainly: bool = False
    ) -> lora_reading.Found:
        """See Family.attach_lora; ValueError for a LoRA of the head."""
        head = _name_of(denoiser, denoiser.head)
        found = lora_files.read_for_denoiser(folder, self.denoiser_part)
        found.check(denoiser, self.denoiser_part, self.pipeline_class)
        lean = lora_reading.has_no_weights(denoiser)
        denoiser.load_lora_adapter(folder, prefix=None, low_cpu_mem_usage=lean, **FROM_DISK)
        if not isinstance(denoiser.head, TokenHead):
            raise ValueError(f"the LoRA in {folder} changes {head}, {_NO_LORA}")
        return found

    def read_lora(self, path: Path) -> lora_reading.Found:
        lora_files.check(path)
        found = lora_files.read_for_denoiser(path, self.denoiser_part)
        found.check(self.denoiser, self.denoiser_part, self.pipeline_class)
        return found

    def _check_lora_targets(self, targets: Sequence[str]) -> None:
        head = _name_of(self.denoiser, self.denoiser.head)
        for target in targets:
            if f".{head}".endswith(f".{target}"):
                raise ValueError(f"LoRA target {target!r} is {head}, {_NO_LORA}")


def _name_of(module: nn.Module, part: nn.Module) -> str:
    return next(name for name, found in module.named_modules() if found is part)
