"""The parts of a model folder, loaded: denoiser, schedule, autoencoder, text encoders."""

from __future__ import annotations

from abc import ABC
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tglo.models import folder, parts, quantization
from tglo.models.autoencoder import Codec, LatentCodec
from tglo.models.encoders import Encoders, EncodersInTurn, TextEncoders
from tglo.models.text import PromptTally, TextPart, check_vocabulary, tokenize
from tglo.models.tiling import check_tiling
from tglo.noise.density import Density, parse, uniform
from tglo.noise.schedule import Schedule


class Loaded(ABC):
    """One loaded model: denoiser, noise schedule and, unless left on disk, VAE and text encoders.

    path: a local diffusers folder (tglo.models.resolve finds it). dtype: that of the denoiser and the
    text encoders; the VAE runs in float32 where a smaller type would overflow. encoders: False leaves
    VAE and text encoders on disk; then the model neither encodes nor generates. denoiser: False leaves its
    weights on disk, and VAE and text encoders until each is used, one at a time; then the model only encodes.
    """

    name: ClassVar[str]
    pipeline_class: ClassVar[Any]
    text_parts: ClassVar[tuple[TextPart, ...]]
    """The text encoders, in the pipeline's order."""
    denoiser_part: ClassVar[str] = "unet"
    denoiser_class: ClassVar[Any] = None
    """The denoiser's class where it is not the one that the folder names."""
    vae_part: ClassVar[str] = "vae"
    chunks_prompts: ClassVar[bool] = False
    """Long prompts can be encoded in chunks, one after another."""
    unused_parts: ClassVar[dict[str, Any]] = {}
    """Arguments that leave out what the pipeline has and this project does not use."""
    codec_class: ClassVar[type[Codec]] = LatentCodec
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    timestep_density: ClassVar[Density] = staticmethod(uniform)
    """How often training draws each part of the schedule."""

    text_widths: ClassVar[dict[str, dict[str, int]]] = {}
    """Entries of the denoiser's configuration that are widths of text -> how often the width of which text
    encoder they have.
    """
    flow_matching: ClassVar[bool | None] = None
    """Whether the scheduler is one of flow matching; None: it is of another kind altogether."""
    explicit_sigmas: ClassVar[bool] = False
    """The pipeline gives the scheduler its sigmas."""

    def __init__(
        self,
        path: Path | str,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        encoders: bool = True,
        denoiser: bool = True,
    ) -> None:
        self.path = Path(path)
        self.has_encoders, self.has_denoiser = encoders, denoiser
        config = folder.read_config(self.path / self.vae_part / "config.json")
        self.codec = self.codec_class(config)
        with folder.understood(self.path, f"{self.name} model folder"):
            loaded = self._load_parts(dtype, encoders and denoiser)
        self.denoiser: Any = loaded[self.denoiser_part]
        self.scheduler: Any = loaded["scheduler"]
        with folder.understood(self.path / "scheduler", "scheduler of a diffusers model"):
            self.schedule: Any = self._training_schedule()
        self.tokenizers: list[Any] = [loaded[part.tokenizer] for part in self.text_parts]
        names = [self.vae_part, *(part.encoder for part in self.text_parts)]
        self.encoders = Encoders({name: loaded[name] for name in names})
        if not denoiser:
            self.encoders = EncodersInTurn(self._load_encoder)
        self.prompts = PromptTally(in_chunks=self.chunks_prompts)
        with folder.understood(self.path, f"{self.name} model folder"):
            self._check_parts()
            for part, tokenizer in zip(self.text_parts, self.tokenizers, strict=True):
                check_vocabulary(part, tokenizer, self.path)
        self.device = torch.device("cpu")
        for encoder in self.encoders.present().values():
            encoder.eval().requires_grad_(False)
        self.denoiser.eval()
        self.to(device)

    def _load_parts(self, dtype: torch.dtype, encoders: bool) -> dict[str, Any]:
        """Load the folder's parts, by name; None for those that are left on disk."""
        left_out: dict[str, Any] = {}
        if not encoders:
            left_out = dict.fromkeys((self.vae_part, *(part.encoder for part in self.text_parts)))
        pipeline = self.pipeline_class.from_pretrained(
            self.path,
            dtype={"default": dtype, self.vae_part: self.codec.dtype(dtype)},
            **parts.FROM_DISK,
            **self.unused_parts,
            **left_out,
            **self._given_parts(dtype, left_out),
        )
        self.pipeline_config = dict(pipeline.config)
        return pipeline.components

    def _own_parts(self, dtype: torch.dtype) -> dict[str, Any]:
        """Load the parts that the pipeline cannot load, by name."""
        return {}

    def _given_parts(self, dtype: torch.dtype, left_out: Collection[str]) -> dict[str, Any]:
        """Return the parts that the pipeline is given and does not load, by name; a denoiser without weights where
        they stay on disk.
        """
        if self.has_denoiser:
            return {**self._given_weights(dtype, left_out), **self._own_parts(dtype)}
        kind = self.denoiser_class or self._class_of(self.denoiser_part)
        with torch.device("meta"):
            config = folder.read_config(self.path / self.denoiser_part / "config.json")
            return {self.denoiser_part: nn.Module.to(kind.from_config(config), dtype)}

    def _given_weights(self, dtype: torch.dtype, left_out: Collection[str]) -> dict[str, Any]:
        """Load the parts that the pipeline cannot load itself, by name, but those left out."""
        return {
            name: self.load_denoiser(self.path, dtype)
            if name == self.denoiser_part
            else self._read_encoder(name, dtype)
            for name in parts.parts_to_give(self.path)
            if name not in left_out
        }

    def _class_of(self, part: str) -> Any:
        """Return the class that the folder names for a part."""
        return parts.class_of(self.path, part)

    def _load_encoder(self, name: str) -> Any:
        """Load the VAE or a text encoder onto the device."""
        return self.read_encoder(name).to(self.device)

    def read_encoder(self, name: str, dtype: torch.dtype | None = None) -> Any:
        """Load the VAE or a text encoder into host memory, ready for use; in the model's dtype by default."""
        with folder.understood(self.path / name, f"{name} of a {self.name} model"):
            encoder = self._read_encoder(name, dtype or self.dtype)
        self._adapt(name, encoder)
        return encoder.eval().requires_grad_(False)

    def _read_encoder(self, name: str, dtype: torch.dtype) -> Any:
        dtype = self.codec.dtype(dtype) if name == self.vae_part else dtype
        return parts.load_part(self.path, name, self._class_of(name), dtype)

    def _adapt(self, name: str, encoder: Any) -> None:  # noqa: B027 (most need nothing)
        """Change an encoder that was loaded."""

    def _training_schedule(self) -> Any:
        schedule = Schedule.from_scheduler(self.scheduler)
        return replace(schedule, density=type(self).timestep_density)

    def set_timesteps(self, timesteps: str) -> None:
        """Choose how often training draws each timestep, by a name of tglo.noise.density; "default": as the
        model's authors did. ValueError for one that the model has not.
        """
        density = type(self).timestep_density if timesteps == "default" else parse(timesteps)
        if density is None:
            density = self._by_resolution()
        if timesteps != "default" and not isinstance(self.schedule, Schedule):
            raise ValueError(f"timesteps is {timesteps!r}; {self.name} hides tokens, leave it out")
        if isinstance(self.schedule, Schedule):
            self.schedule = replace(self.schedule, density=density)

    def _by_resolution(self) -> Density:
        raise ValueError(
            f"timesteps is 'resolution', but the scheduler in {self.path} has no shift by resolution; "
            "use 'default' or 'shift(S)'"
        )

    def _check_parts(self) -> None:  # noqa: B027 (a folder may have no rule of its own)
        """Raise ValueError unless the parts fit each other."""

    @property
    def vae(self) -> Any:
        """The VAE, or None if it was left on disk."""
        return self.encoders[self.vae_part]

    @property
    def text_encoders(self) -> Sequence[Any]:
        """The text encoders in the order of `text_parts`, each None if it was left on disk."""
        return TextEncoders(self.encoders, [part.encoder for part in self.text_parts])

    def text_at_hand(self, number: int) -> bool:
        """Say whether the text encoder with that number can be used without being loaded."""
        return self.encoders.at_hand(self.text_parts[number].encoder)

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's dtype, that of quantised weights apart."""
        return quantization.floating_dtype(self.denoiser)

    @property
    def spatial_scale(self) -> int:
        """Pixels per latent (or token) along a side."""
        return self.codec.spatial_scale

    @classmethod
    def for_index(cls, index: Mapping[str, Any]) -> type[Any]:
        """Return the class for a folder with that model_index.json: this one, or one for folders with fewer parts."""
        return cls

    @classmethod
    def needed_parts(cls) -> dict[str, str]:
        """Return the subfolders that a model folder must have, and what each holds: "model" (with weights),
        "tokenizer" or "scheduler".
        """
        texts: dict[str, str] = {}
        for part in cls.text_parts:
            texts |= {part.tokenizer: "tokenizer", part.encoder: "model"}
        return {
            cls.denoiser_part: "model",
            cls.vae_part: "model",
            **texts,
            "scheduler": "scheduler",
        }

    @classmethod
    def optional_parts(cls) -> tuple[str, ...]:
        """Return the subfolders that it may have, which are copied to an export and not used."""
        return tuple(name for name, value in cls.unused_parts.items() if value is None)

    @property
    def truncated_prompts(self) -> int:
        """How many different prompts were cut."""
        return len(self.prompts.cut)

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return what a cache keeps of images (B, 3, H, W) in [-1, 1], by name; see the family's codec."""
        self.need_encoders()
        return self.codec.encode(self.vae, pixels)

    def encode_in_tiles(self) -> None:
        """Let the VAE encode in overlapping tiles from now on; ValueError if it cannot. See tiling.py."""
        kind = self._class_of(self.vae_part)
        with torch.device("meta"):
            check_tiling(kind.from_config(dict(self.codec.config)))
        self.codec.tiling = True

    def _tokens(
        self, prompts: Sequence[str], number: int, length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return token ids and attention mask (B, length) for the text encoder with that number.

        Prompts beyond the encoder's length are cut, and counted in `prompts`. length: in place of that which the
        family states for all its models.
        """
        self.need_encoders()
        part = self.text_parts[number]
        part = part._replace(length=length or part.length)
        tally = self.prompts if number == 0 else None
        ids, mask = tokenize(part, self.tokenizers[number], prompts, tally)
        return ids.to(self.device), mask.to(self.device)

    def load_denoiser(
        self, folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> Any:
        """Load the denoiser of a folder of this family's layout; without a LoRA."""
        kind = self.denoiser_class or self._class_of(self.denoiser_part)
        return parts.load_part(folder, self.denoiser_part, kind, dtype).to(device)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Move and convert the loaded parts in place; the VAE stays float32 where it must."""
        parts = [(self.denoiser, dtype)]
        for name, encoder in self.encoders.present().items():
            new = dtype
            if name == self.vae_part and dtype is not None:
                new = self.codec.dtype(dtype)
            parts.append((encoder, new))
        for module, new in parts:
            if device is not None and (self.has_denoiser or module is not self.denoiser):
                module.to(device)
            if new is not None and new != module.dtype:
                if module is self.denoiser:
                    quantization.convert_weights(module, new)
                else:
                    module.to(new)
        if device is not None:
            # Kept, because sharded or offloaded weights do not tell where the model computes.
            self.device = torch.device(device)
            self.schedule = self.schedule.to(device)
        return self

    def quantize(self, kind: str, device: torch.device | str) -> None:
        """Freeze the denoiser and quantise its blocks' linear layers on a device; see tglo.models.quantization."""
        quantization.quantize(self.denoiser, kind, device)

    def need_encoders(self) -> None:
        """Raise RuntimeError unless VAE and text encoders are loaded."""
        if not self.has_encoders:
            raise RuntimeError(
                "the VAE and text encoders were not loaded; load the model with encoders=True to "
                "encode or generate"
            )

    def need_denoiser(self) -> None:
        """Raise RuntimeError unless the denoiser's weights are loaded."""
        if not self.has_denoiser:
            raise RuntimeError(
                "the denoiser was not loaded; load the model with denoiser=True to sample or train"
            )
