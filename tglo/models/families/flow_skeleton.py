"""The transformers of flow-matching families without weights, for `tglo plan`."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tglo.data import ragged
from tglo.files import reading
from tglo.models.families.model import Model
from tglo.models.folder import INDEX, REMEDY, read_config, read_index, understood
from tglo.models.skeleton import Skeleton


@dataclass(frozen=True)
class FlowSkeleton(Skeleton):
    """A family's transformer; its inputs are those that the family itself calls it with."""

    family: type[Model] = Model  # type: ignore[type-abstract]
    vae: dict[str, Any] | None = None
    """The VAE's configuration."""

    @property
    def default_size(self) -> tuple[int, int]:
        return self._model(self._stated()).default_size

    @property
    def size_step(self) -> int:
        return self._model(self._stated()).bucket_step

    @property
    def default_frames(self) -> int | None:
        return self.family.default_frames

    def latent_shape(self, height: int, width: int, frames: int | None = None) -> tuple[int, ...]:
        shape: tuple[int, ...] = self._model(self._stated()).latent_shape(height, width, frames)
        return shape

    def tokens(self, height: int, width: int, frames: int | None = None) -> int | None:
        tokens: int = self._model(self._stated()).image_tokens(height, width, frames)
        return tokens

    def check(self, path: Path) -> None:
        """Raise ValueError unless transformer and VAE of that folder fit each other."""
        model = self._model(self._stated())
        model.path = path
        model._check_parts()

    def check_frames(self, frames: int | None) -> None:
        """Raise ValueError for a number of frames that the VAE cannot make; None is the default."""
        model = self._model(self._stated())
        model.latent_shape(*model.default_size, frames)

    def make(self) -> nn.Module:
        with reading(self.source, "transformer configuration", REMEDY):
            made: nn.Module = self.family.denoiser_class.from_config(self.config)
            return made

    def inputs(
        self, denoiser: Any, batch: int, height: int, width: int, frames: int | None = None
    ) -> dict[str, Any]:
        model = self._model(denoiser)
        found: dict[str, Any] = {}
        signature = inspect.signature(denoiser.forward)

        def record(*arguments: Any, **options: Any) -> None:
            found.update(signature.bind(*arguments, **options).arguments)
            raise _Recorded

        noisy = torch.empty(batch, *model.latent_shape(height, width, frames), device="meta")
        timesteps = torch.empty(batch, device="meta")
        conditions = model.conditions(model.example_text(batch))
        if ragged.MASK in conditions:  # its values count
            mask = conditions[ragged.MASK]
            conditions[ragged.MASK] = torch.ones(mask.shape, dtype=torch.bool, device="cpu")
        try:
            model.call(record, noisy, timesteps, conditions)
        except _Recorded:
            pass
        dtype = next(denoiser.parameters()).dtype
        return {name: _as(value, dtype) for name, value in found.items()}

    def text_shapes(self) -> dict[str, tuple[int | None, ...]]:
        found: dict[str, tuple[int | None, ...]] = self._model(self._stated()).text_shapes()
        return found

    def stored_bytes(self, height: int, width: int, frames: int | None = None) -> int:
        frames = frames or self.default_frames
        size = (height, width) if frames is None else (height, width, frames)
        return self.family.codec_class(self.vae or {}).stored_bytes(*size)

    def _stated(self) -> Any:
        """Return something with the transformer's whole configuration, diffusers' defaults included."""
        parameters = inspect.signature(self.family.denoiser_class.__init__).parameters
        defaults = {name: parameter.default for name, parameter in parameters.items()}
        return SimpleNamespace(config=SimpleNamespace(**{**defaults, **self.config}))

    def _model(self, denoiser: Any) -> Any:
        """Return the family with nothing but its configuration."""
        model: Any = self.family.__new__(self.family)
        model.denoiser, model.device = denoiser, torch.device("meta")
        model.codec = self.family.codec_class(self.vae or {})
        return model


class _Recorded(Exception):
    """The denoiser was called."""


def _as(value: Any, dtype: torch.dtype) -> Any:
    """Return the inputs on the meta device and, but for what is no number of a model, in its dtype."""
    if isinstance(value, list):
        return [_as(entry, dtype) for entry in value]
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to("meta", dtype)
    return value.to("meta") if isinstance(value, Tensor) else value


def of_published(family: type[Model], config: dict[str, Any], vae: dict[str, Any]) -> FlowSkeleton:
    """Return the skeleton of a published model, from its two configurations."""
    scale = family.codec_class(vae).spatial_scale
    return FlowSkeleton(config, scale, family.lora_targets, family=family, vae=vae)


def of_folder(family: type[Model], model: str) -> FlowSkeleton | None:
    """Return the skeleton of a model folder of that family; None for anything else."""
    folder = Path(model.removeprefix("path:")).expanduser()
    parts = [folder / part / "config.json" for part in (family.denoiser_part, family.vae_part)]
    if not (folder / INDEX).is_file() or not all(part.is_file() for part in parts):
        return None
    if read_index(folder).get("_class_name") != family.pipeline_class.__name__:
        return None
    with understood(parts[0], "model configuration"):
        config, vae = (read_config(part) for part in parts)
        scale = family.codec_class(vae).spatial_scale
    return FlowSkeleton(config, scale, family.lora_targets, str(parts[0]), family, vae)
