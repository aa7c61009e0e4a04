"""What the families of flow-matching transformers share: x_t = (1 - sigma) x0 + sigma eps, and the answer is
eps - x0.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import numpy as np
import torch
from torch import Tensor

from tglo.models.families import flow_skeleton
from tglo.models.families.base import Family
from tglo.models.families.model import Tensors
from tglo.models.skeleton import Skeleton
from tglo.noise.density import Density, Resolution
from tglo.settings import SamplingOptions


class Imported:
    """A class of diffusers as the attribute of a family, imported when it is first used: each pipeline
    brings its text encoders along, and nobody needs all of them.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> Any:
        return getattr(diffusers, self._name)


class FlowFamily(Family):
    """A transformer on latents, patch by patch, with a flow-matching scheduler."""

    denoiser_part = "transformer"
    patch = 2
    flow_matching = True
    explicit_sigmas = True  # 1 down to 1 / steps, before they are shifted
    longest_shift: ClassVar[float] = 1.15
    """Of the shift by resolution, where the scheduler's configuration does not say."""
    default_side: ClassVar[int | None] = None
    """Latents along a side of the images that the model was trained on, where the transformer does not say."""
    unsupported: ClassVar[dict[tuple[str, str], str]] = {}
    packed: ClassVar[bool] = False
    """The transformer takes patches as rows of numbers, not as latents."""
    training_guidance: ClassVar[float] = 3.5
    """What a transformer that takes guidance is told in training: the default of diffusers' own scripts for
    FLUX.1 and FLUX.2.
    """
    architectures: ClassVar[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {}
    """Published models by their short names: what their transformer's and their VAE's configurations say, as
    far as the first differs from diffusers' defaults and the second gives shapes.
    """

    @property
    def default_size(self) -> tuple[int, int]:
        if self.default_side is None:
            return super().default_size
        side = self.default_side * self.spatial_scale
        return side, side

    def _check_parts(self) -> None:
        numbers = self.latent_shape(*self.default_size)[0]
        numbers *= self.patch**2 if self.packed else 1
        if self.denoiser.config.in_channels != numbers:
            raise ValueError(
                f"the transformer in {self.path} takes {self.denoiser.config.in_channels} numbers a "
                f"{'patch' if self.packed else 'latent'} and the VAE gives {numbers}; take both from one "
                "model. Models that take more than latents, such as those for inpainting and editing, "
                "are not supported"
            )

    @classmethod
    def skeleton(cls, model: str) -> Skeleton | None:
        """Return the transformer of a published model or of a folder of this family."""
        if model in cls.architectures:
            return flow_skeleton.of_published(cls, *cls.architectures[model])
        return flow_skeleton.of_folder(cls, model)

    @classmethod
    def check_size(cls, path: Path, options: SamplingOptions) -> None:
        super().check_size(path, options)
        cls.check_choice(options)
        skeleton = flow_skeleton.of_folder(cls, f"path:{path}")
        if skeleton is not None:
            options.check_sides(skeleton.size_step)
            skeleton.check_frames(options.frames)

    def conditions(self, text: Tensors, sizes: Tensors | None = None) -> Tensors:
        """Return the embeddings; the sizes have no part in it."""
        return {
            name: tensor.to("cpu" if name in self.on_host else self.device)
            for name, tensor in text.items()
        }

    def _guidance(self, conditions: Tensors, timesteps: Tensor) -> Tensor | None:
        """Return conditions["guidance"] (B,), by default `training_guidance`; None if the transformer takes none."""
        if not self.denoiser.config.guidance_embeds:
            return None
        told = conditions.get("guidance")
        return torch.full_like(timesteps, self.training_guidance) if told is None else told

    def _example_prompt(self, batch: int, width: int) -> Tensors:
        """Return random embeddings of prompts of 16 tokens with their mask; see Model.example_text."""
        mask = torch.ones(batch, 16, dtype=torch.bool)
        return {"prompt_embeds": self._random(batch, 16, width), "prompt_mask": mask}

    def image_tokens(self, height: int, width: int, frames: int | None = None) -> int:
        """Return the number of patches of an image of height x width pixels, or of a video."""
        return math.prod(self.latent_shape(height, width, frames)[1:]) // self.patch**2

    def step_options(self, options: SamplingOptions) -> dict[str, Any]:
        """See Model.step_options; with the pipeline's sigmas, and its shift by resolution."""
        steps = super().step_options(options)["num_inference_steps"]
        found: dict[str, Any] = {"num_inference_steps": steps}
        config = self.scheduler.config
        if steps == 1 and config.get("shift_terminal"):
            raise ValueError(
                f"steps is 1, but the scheduler of {self.path} stretches its sigmas so that the last is "
                f"{config['shift_terminal']:g} (shift_terminal), which takes two or more; use at least 2 steps"
            )
        if self.explicit_sigmas and not config.get("use_flow_sigmas"):
            found = {"sigmas": np.linspace(1.0, 1 / steps, steps)}
        if config.get("use_dynamic_shifting"):
            found["mu"] = self._shift(self.image_tokens(*options.size, options.frames))
        return found

    def _shift(self, tokens: int) -> float:
        """Return the logarithm of the shift for so many patches, on the line that the scheduler states."""
        slope, base = self._line()
        return float(tokens * slope + base)

    def _line(self) -> tuple[float, float]:
        config = self.scheduler.config
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", self.longest_shift)
        slope = (high - low) / (many - few)
        return slope, low - slope * few

    def _by_resolution(self) -> Density:
        if not self.scheduler.config.get("use_dynamic_shifting"):
            return super()._by_resolution()
        slope, base = self._line()
        return Resolution(base, slope, self.patch)
