"""What the cache, the training loop and the export ask of a model family.

A new family is a subclass of Family in a file of its own (its class variables, `text`,
`conditions`, `call` and `example_text`) and one entry in tglo.models.FAMILIES. Of masked models it is
a subclass of MaskedFamily (tglo.models.families.masked).
"""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from PIL import Image
from torch import Tensor, nn

from tglo import philox
from tglo.models import autoencoder, export, lora, sampling
from tglo.models.execution import attention, checkpointing
from tglo.models.fingerprint import folder_fingerprint
from tglo.models.text import tokenize
from tglo.noise.draw import Drawn
from tglo.noise.schedule import Schedule
from tglo.settings import SamplingOptions

# The paper's temperature 0.001 belongs to SD1.5's 16,384 latent elements, and the same strength per
# element is inversely proportional to their number.
_TEMPERATURE_TIMES_ELEMENTS = 1e-3 * 16_384


class Family(ABC):
    """One loaded model: denoiser, noise schedule and, until dropped, VAE and text encoders.

    path: a local diffusers folder (tglo.models.resolve finds it). dtype: of the denoiser and the
    text encoders; the VAE runs in float32 where a smaller type would overflow. encoders: False
    leaves VAE and text encoders on disk, as if they had been dropped.
    """

    name: ClassVar[str]
    pipeline_class: ClassVar[Any]
    denoiser_part: ClassVar[str] = "unet"
    denoiser_class: ClassVar[Any] = None  # where the family has one of its own
    vae_part: ClassVar[str] = "vae"
    drawn: ClassVar[type[Drawn]] = Drawn
    """What a draw becomes for this denoiser."""
    unsupported: ClassVar[dict[tuple[str, str], str]] = {}
    """(key, value) of a training's configuration that does not fit -> why, and what to do."""
    text_parts: ClassVar[tuple[tuple[str, str], ...]]  # (tokenizer, text encoder), in order
    unused_parts: ClassVar[dict[str, Any]] = {}  # what the pipeline is loaded without
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(
        self,
        path: Path | str,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        encoders: bool = True,
    ) -> None:
        self.path = Path(path)
        self._vae_config = json.loads((self.path / self.vae_part / "config.json").read_text())
        parts = self._load_parts(dtype, encoders)
        self.denoiser: Any = parts[self.denoiser_part]
        self.scheduler: Any = parts["scheduler"]
        self.schedule: Any = self._training_schedule()
        self.vae: Any = parts[self.vae_part]
        self.tokenizers: list[Any] = [parts[tokenizer] for tokenizer, _ in self.text_parts]
        self.text_encoders: list[Any] = [parts[encoder] for _, encoder in self.text_parts]
        self.truncated_prompts = 0
        self._fingerprint: dict[str, str] | None = None
        # What AutoencoderKL takes for an entry that its file lacks.
        levels = len(self._vae_config.get("block_out_channels", (64,)))
        self.vae_scale: int = 2 ** (levels - 1)
        self.latent_channels: int = self._vae_config.get("latent_channels", 4)
        self._check_parts()
        self.device = torch.device("cpu")
        for encoder in (self.vae, *self.text_encoders):
            if encoder is not None:
                encoder.eval().requires_grad_(False)
        self.denoiser.eval()
        self.to(device)

    def _load_parts(self, dtype: torch.dtype, encoders: bool) -> dict[str, Any]:
        """The folder's parts by name; None for those that are left on disk."""
        left_out: dict[str, Any] = {}
        if not encoders:
            left_out = dict.fromkeys((self.vae_part, *(encoder for _, encoder in self.text_parts)))
        pipeline = self.pipeline_class.from_pretrained(
            self.path,
            dtype={"default": dtype, self.vae_part: self._vae_dtype(dtype)},
            use_safetensors=True,  # the other format is pickle, which can run code
            local_files_only=True,
            **self.unused_parts,
            **left_out,
            **self._own_parts(dtype),
        )
        self.pipeline_config = dict(pipeline.config)
        return pipeline.components

    def _own_parts(self, dtype: torch.dtype) -> dict[str, Any]:
        """Parts that the family loads itself, by name."""
        return {}

    def _training_schedule(self) -> Any:
        return Schedule.from_scheduler(self.scheduler)

    def _vae_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return autoencoder.vae_dtype(self._vae_config, dtype)

    def _check_parts(self) -> None:
        """ValueError unless the parts fit each other."""
        if self.denoiser.config.in_channels != self.latent_channels:
            raise ValueError(
                f"the denoiser in {self.path} takes {self.denoiser.config.in_channels} channels "
                f"and the VAE gives {self.latent_channels}; models that take more than latents, "
                "such as inpainting models, are not supported"
            )

    # What each family states about itself.

    @abstractmethod
    def text(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Embeddings of B prompts, each tensor (B, ...), exactly as the pipeline makes them."""

    @abstractmethod
    def conditions(
        self, text: dict[str, Tensor], sizes: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """What `call` needs beside latents and timesteps, each tensor (B, ...).

        text as from `text` or from a cache; sizes: "original_size", "crop", "target_size", each
        (B, 2) as (height, width) or (top, left), where the family is conditioned on them.
        """

    @abstractmethod
    def call(
        self,
        denoiser: Callable[..., Any],
        noisy: Tensor,
        timesteps: Tensor,
        conditions: dict[str, Tensor],
    ) -> Tensor:
        """The denoiser's prediction (B, C, h, w).

        noisy: latents (B, C, h, w); timesteps: (B,) float32; denoiser: the module or a wrapper of
        it (DDP, DeepSpeed engine), called as a function.
        """

    @abstractmethod
    def example_text(self, batch: int) -> dict[str, Tensor]:
        """Random tensors of the shapes that `text` returns, without using the text encoders."""

    # What follows from it.

    def predict(
        self,
        denoiser: Callable[..., Any],
        noisy: Tensor,
        index: Tensor,
        conditions: dict[str, Tensor],
    ) -> Tensor:
        """The prediction (B, C, h, w) at schedule indices (B,) int64; see `call`."""
        return self.call(denoiser, noisy, self.timesteps(index, noisy), conditions)

    def timesteps(self, index: Tensor, noisy: Tensor) -> Tensor:
        """What `call` is told of the noise, (B,) float32, of a draw's index and noisy."""
        return self.schedule.model_timestep(index)

    def example(self, batch: int, height: int, width: int) -> Drawn:
        """B draws of random numbers, always the same, for images of height x width pixels."""
        shape = (self.latent_channels, height // self.vae_scale, width // self.vae_scale)
        ids = torch.arange(batch)
        last = len(self.schedule) - 1
        noisy = philox.normal(0, ids, 0, shape, device=self.device)
        return Drawn(
            index=torch.linspace(last / 4, last, batch).long().to(self.device),
            noisy=noisy,
            target=noisy,
            conditions=self._example_conditions(batch, height, width),
        )

    def _example_conditions(self, batch: int, height: int, width: int) -> dict[str, Tensor]:
        sizes = sampling.image_sizes(batch, height, width, self.device)
        conditions = self.conditions(self.example_text(batch), sizes)
        return {name: tensor.to(self.device) for name, tensor in conditions.items()}

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.denoiser.parameters()).dtype

    def parts(self) -> list[str]:
        """The folder's parts, by the names of their subfolders."""
        index = json.loads((self.path / "model_index.json").read_text())
        return [n for n, entry in index.items() if isinstance(entry, list) and entry[0] is not None]

    @property
    def bucket_step(self) -> int:
        """Image sides must be a multiple of this many pixels: then no denoiser level pads."""
        levels = len(getattr(self.denoiser.config, "block_out_channels", (0,)))
        return self.vae_scale * 2 ** (levels - 1)

    @property
    def size_step(self) -> int:
        """Generated images' sides must be a multiple of this many pixels."""
        return self.vae_scale

    @property
    def default_temperature(self) -> float:
        """The paper's 0.001 for SD1.5's latents, and inversely proportional to their number."""
        return _TEMPERATURE_TIMES_ELEMENTS / (self.latent_channels * self._latent_side**2)

    def temperature(self, published: float | None) -> float:
        """T for an objective whose publication gives a T for square errors, or None."""
        return published or self.default_temperature

    @property
    def default_resolution(self) -> int:
        """The side in pixels of the images that the model was trained on."""
        return self._latent_side * self.vae_scale

    @property
    def _latent_side(self) -> int:
        side = self.denoiser.config.sample_size
        return side if isinstance(side, int) else max(side)

    def latents(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation of the scaled latents, each (B, C, h, w) float32.

        pixels: (B, 3, H, W) in [-1, 1].
        """
        self._need_encoders()
        return autoencoder.encode(self.vae, pixels)

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """What a cache keeps of images (B, 3, H, W) in [-1, 1]: mean and std of `latents`."""
        return dict(zip(("mean", "std"), self.latents(pixels), strict=True))

    def _tokens(self, prompts: Sequence[str], part: int) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask (B, length) for the text encoder with that number.

        Prompts beyond the tokenizer's length are cut, counted in truncated_prompts and reported once.
        """
        if self.text_encoders[part] is None:
            self._need_encoders()
        ids, mask, truncated = tokenize(
            self.tokenizers[part], prompts, count=part == 0, report=not self.truncated_prompts
        )
        self.truncated_prompts += truncated
        return ids.to(self.device), mask.to(self.device)

    def unconditional(self, empty: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What guidance starts from and caption dropout puts in, each tensor (1, ...).

        empty: `text` of the empty prompt, as a cache has it; encoded here without it.
        """
        return self.text([""]) if empty is None else empty

    def fingerprint(self) -> dict[str, str]:
        """Everything that the bytes of cached latents and embeddings depend on, name -> text."""
        return {
            **self.encoders_fingerprint(),
            "vae_dtype": str(self._vae_dtype(self.dtype)).removeprefix("torch."),
            "text_dtype": str(self.dtype).removeprefix("torch."),
        }

    def encoders_fingerprint(self) -> dict[str, str]:
        """What their meaning depends on: `fingerprint` without precisions, which may differ."""
        if self._fingerprint is None:
            parts = [self.vae_part, *(part for pair in self.text_parts for part in pair)]
            self._fingerprint = folder_fingerprint(self.path, parts)
        return {"family": self.name, **self._fingerprint}

    def denoiser_fingerprint(self) -> dict[str, str]:
        """What the untrained denoiser's predictions and targets depend on, name -> text."""
        digest = folder_fingerprint(self.path, [self.denoiser_part])[self.denoiser_part]
        return {
            "family": self.name,
            "denoiser": digest,
            "schedule": self.schedule.fingerprint(),
        }

    def reference_copy(self) -> nn.Module:
        """A frozen copy of the denoiser as it is now: eval mode, no gradients."""
        reference = copy.deepcopy(self.denoiser).eval().requires_grad_(False)
        if reference.is_gradient_checkpointing:
            reference.disable_gradient_checkpointing()
        return reference

    def add_lora(
        self,
        rank: int,
        alpha: float,
        targets: Sequence[str] | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Freezes the denoiser and adds LoRA layers, zero at first; see tglo.models.lora."""
        lora.add(self.denoiser, rank, alpha, targets or self.lora_targets, dropout, seed)

    @property
    def lora_parameters(self) -> list[nn.Parameter]:
        return lora.parameters(self.denoiser)

    def load_lora(self, folder: Path | str) -> None:
        """Load an exported LoRA (of tglo or any that the pipeline loads) into the denoiser."""
        export.load_lora_weights(self, Path(folder))

    def load_denoiser(
        self, folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> Any:
        """The denoiser of a folder of this family's layout; without a LoRA."""
        kind = self.denoiser_class or type(self.denoiser)
        denoiser = kind.from_pretrained(
            folder,
            subfolder=self.denoiser_part,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
        )
        return denoiser.to(device)

    def write_lora(self, folder: Path, denoiser: Any) -> None:
        """Write a denoiser's LoRA as the pipeline's `load_lora_weights` takes it."""
        export.write_pipeline_lora(self, folder, denoiser)

    def attach_lora(self, denoiser: Any, folder: Path) -> None:
        """Load a folder's LoRA into a denoiser as users do."""
        export.attach_pipeline_lora(self, denoiser, folder)

    def adapters_off(self) -> AbstractContextManager[None]:
        """Inside, the denoiser (also behind a wrapper) computes the base model's prediction."""
        return lora.adapters_off(self.denoiser)

    def save(
        self,
        folder: Path | str,
        *,
        state_dict: dict[str, Tensor] | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Exports a whole diffusers folder (LoRA merged); see tglo.models.export."""
        return export.save_pipeline(self, Path(folder), state_dict=state_dict, overwrite=overwrite)

    def save_lora(
        self,
        folder: Path | str,
        *,
        state_dict: dict[str, Tensor] | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Exports the LoRA for `pipe.load_lora_weights`; see tglo.models.export."""
        return export.save_lora(self, Path(folder), state_dict=state_dict, overwrite=overwrite)

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        options: SamplingOptions = SamplingOptions(),
        **more: Any,
    ) -> list[Image.Image]:
        """Images of the prompts, one seed each; see tglo.models.sampling.generate."""
        self._need_encoders()
        return sampling.generate(self, prompts, seeds, options, **more)

    def sample(
        self,
        denoiser: Callable[..., Any],
        scheduler: Any,
        conditions: dict[str, Tensor],
        generators: list[torch.Generator],
        options: SamplingOptions,
    ) -> Tensor:
        """One image per generator, (B, 3, H, W) in [-1, 1]; see tglo.models.sampling.generate.

        conditions: of B rows, with guidance of 2 B, the empty prompts' first. options: resolved ones.
        """
        if options.choice_temperature is not None:
            raise ValueError(
                f"choice_temperature is of masked models; {self.name} has no tokens to choose"
            )
        shape = (self.latent_channels, *(side // self.vae_scale for side in options.size))
        latents = sampling.denoise(
            self, denoiser, scheduler, conditions, generators, shape, options
        )
        return autoencoder.decode(self.vae, latents)

    def drop_encoders(self) -> None:
        """Frees the VAE and the text encoders. `latents`, `text` and `generate` no longer work."""
        self.vae, self.text_encoders = None, [None] * len(self.text_encoders)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Moves and converts the loaded parts in place; the VAE stays float32 where it must."""
        parts = [(self.denoiser, dtype)]
        if self.vae is not None:
            vae_dtype = None if dtype is None else self._vae_dtype(dtype)
            parts += [(self.vae, vae_dtype), *((encoder, dtype) for encoder in self.text_encoders)]
        for module, new in parts:
            if device is not None:
                module.to(device)
            if new is not None and new != module.dtype:
                module.to(new)
        if device is not None:
            # Kept, because sharded or offloaded weights do not tell where the model computes.
            self.device = torch.device(device)
            self.schedule = self.schedule.to(device)
        return self

    def set_loss_backend(self, backend: str) -> None:  # noqa: B027 (most compute none)
        """Backend of what the denoiser computes of the loss in its forward pass."""

    def set_gradient_checkpointing(self, mode: checkpointing.Mode) -> None:
        """Which activations the forward keeps: none, selective or full checkpointing."""
        checkpointing.set_mode(self.denoiser, mode)

    def set_attention(self, backend: str, dtype: torch.dtype | None = None) -> None:
        """Chooses the denoiser's attention backend on its device; see tglo.models.execution.attention."""
        attention.set_backend(self.denoiser, backend, dtype)

    def set_channels_last(self, when: Literal["auto", "on", "off"] = "on") -> None:
        """Stores convolution weights in channels_last, which convolutions on recent GPUs prefer;
        auto: a UNet's, on a GPU.
        """
        suits = self.denoiser_part == "unet" and self.device.type == "cuda"
        if when == "on" or (when == "auto" and suits):
            self.denoiser.to(memory_format=torch.channels_last)

    def _need_encoders(self) -> None:
        if self.vae is None:
            raise RuntimeError(
                "the VAE and text encoders were dropped or not loaded; load the model again to "
                "encode or generate"
            )
