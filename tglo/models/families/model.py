"""A loaded model: what each family states about itself, and what follows from it.

Cache, training, sampling and export work with nothing else of a family. tglo.models.families.base says
how one is added.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tglo import philox
from tglo.data import ragged
from tglo.models import samplers
from tglo.models.families.adapted import Adapted
from tglo.models.quantization import floating_dtype
from tglo.models.skeleton import Skeleton
from tglo.models.text import tokenize
from tglo.noise.draw import Draw, draw_latents
from tglo.noise.noising import Key
from tglo.settings import PROMPT_CHUNKS, ModelOptions, SamplingOptions, check_limits

# The paper's temperature 0.001 belongs to SD1.5's 16,384 latent elements, and the same strength per
# element is inversely proportional to their number.
_TEMPERATURE_TIMES_ELEMENTS = 1e-3 * 16_384
_OF_SIGMA = "it weighs by the sigma of flow matching; use min_snr or none"
_NOT_FLOW: dict[tuple[str, str], str] = {
    ("objective.timestep_weight", "sigma_sqrt"): _OF_SIGMA,
    ("objective.timestep_weight", "cosmap"): _OF_SIGMA,
    ("data.noise", "own"): (
        "only flow matching goes between an image and its noise on a straight line; use fresh"
    ),
}

Tensors = dict[str, Tensor]
"""Tensors by name."""
Denoiser = Callable[..., Any]
"""The denoiser's module or a wrapper of it (DDP, DeepSpeed engine), called as a function."""


class Model(Adapted):
    """A loaded model with all that its family states about itself."""

    sampler: ClassVar[samplers.Sampler] = staticmethod(samplers.denoise)
    guidance_in_model: ClassVar[bool] = False
    """The denoiser takes the guidance, conditions["guidance"] (B,), and has no second pass."""
    default_frames: ClassVar[int | None] = None
    """Frames of the videos that the model was trained on; None for a model of images."""
    frame_rate: ClassVar[float | None] = None
    """Frames per second of those videos."""
    least_guidance: ClassVar[float] = 1.0
    """A guidance of this or less is none."""
    answers_with_error: ClassVar[bool] = False
    """`predict` answers with the error (B,) itself, not with a prediction of the target."""
    prompt_chunks: int = 1
    """Chunks that every prompt is encoded in."""
    on_host: ClassVar[tuple[str, ...]] = ()
    """Conditions whose values `call` reads: they stay on the CPU, where a GPU need not be waited for."""
    published: ClassVar[tuple[str, ...]] = ()
    """Names of published models whose skeletons `tglo plan` can build without a folder."""
    unsupported: ClassVar[dict[tuple[str, str], str]] = _NOT_FLOW
    """(key, value) of a training's configuration that does not fit -> why, and what to do."""

    # What each family states about itself.

    @abstractmethod
    def text(self, prompts: Sequence[str]) -> Tensors:
        """Return embeddings of B prompts, each tensor (B, ...), exactly as the pipeline makes them; with
        padding that nothing attends to, and a mask of it, where tglo.data.ragged says so.
        """

    def texts(self, batches: Sequence[Sequence[str]]) -> Iterator[Tensors]:
        """Yield `text` of each batch of prompts; with all that one text encoder has to do done before the next."""
        yield from map(self.text, batches)

    def text_lengths(self, prompts: Sequence[str]) -> list[int]:
        """Return how many rows `text` has under each prompt's mask, from the tokenizer alone; where tglo.data.ragged
        says that there is one.
        """
        _, mask = tokenize(self.text_parts[0], self.tokenizers[0], prompts)
        return mask.sum(1).tolist()

    def text_settings(self) -> dict[str, str]:
        """Return what `text` depends on besides the folder's files and `text_parts`, name -> text."""
        return {}

    @abstractmethod
    def conditions(self, text: Tensors, sizes: Tensors | None = None) -> Tensors:
        """Return what `call` needs beside latents and timesteps, each tensor (B, ...).

        text as from `text` or from a cache; sizes: "original_size", "crop", "target_size", each
        (B, 2) as (height, width) or (top, left), where the family is conditioned on them.
        """

    @abstractmethod
    def call(
        self, denoiser: Denoiser, noisy: Tensor, timesteps: Tensor, conditions: Tensors
    ) -> Tensor:
        """Return the denoiser's prediction (B, C, h, w).

        noisy: latents (B, C, h, w); timesteps: (B,) float32.
        """

    @abstractmethod
    def example_text(self, batch: int) -> Tensors:
        """Return random tensors of the shapes that `text` returns, without using the text encoders."""

    @property
    @abstractmethod
    def patch(self) -> int:
        """Latents (or tokens) along a side that the denoiser handles as one: their number along each
        side must be a multiple of it.
        """

    # What has a default that some families replace.

    def _check_parts(self) -> None:
        """Raise ValueError unless the parts fit each other."""
        channels = self.latent_shape(*self.default_size)[0]
        if self.denoiser.config.in_channels != channels:
            raise ValueError(
                f"the denoiser in {self.path} takes {self.denoiser.config.in_channels} channels "
                f"and the VAE gives {channels}; models that take more than latents, "
                "such as inpainting models, are not supported"
            )

    @property
    def default_size(self) -> tuple[int, int]:
        """The height and width in pixels of the images that the model was trained on."""
        side = self.denoiser.config.sample_size
        side = side if isinstance(side, int) else max(side)
        return side * self.spatial_scale, side * self.spatial_scale

    def latent_shape(self, height: int, width: int, frames: int | None = None) -> tuple[int, ...]:
        """Return the shape of the latents (or tokens) of one image of height x width pixels.

        frames: those of a video, `default_frames` by default; ValueError for a family of images.
        """
        if frames is not None:
            raise ValueError(f"{self.name} makes images, not {frames} frames; leave frames out")
        return self.codec.shape(height, width)

    @property
    def size_step(self) -> int:
        """The sides of generated images must be a multiple of this many pixels."""
        return self.bucket_step

    @property
    def has_guidance(self) -> bool:
        """Whether a guidance changes anything: some distilled models have none."""
        return True

    @property
    def default_temperature(self) -> float:
        """T: the paper's 0.001 for SD1.5's latents, and inversely proportional to their number."""
        return _TEMPERATURE_TIMES_ELEMENTS / math.prod(self.latent_shape(*self.default_size))

    def temperature(self, published: float | None) -> float:
        """Return T for an objective whose publication gives a T for square errors, or None."""
        return published or self.default_temperature

    def unconditional(self, empty: Tensors | None = None) -> Tensors:
        """Return what guidance starts from and caption dropout puts in, each tensor (1, ...).

        empty: `text` of the empty prompt, as a cache has it; encoded here without it.
        """
        return self.text([""]) if empty is None else empty

    def guide(self, empty: Tensor, prompted: Tensor, scale: float) -> Tensor:
        """Return the guided prediction from the empty prompt's and the prompt's, (B, ...) each."""
        return empty + scale * (prompted - empty)

    def step_options(self, options: SamplingOptions) -> dict[str, Any]:
        """Return the arguments of the scheduler's `set_timesteps` besides the device.

        options: resolved ones, with a height and a width.
        """
        self.check_choice(options)
        return {"num_inference_steps": options.steps}

    @classmethod
    def check_choice(cls, options: SamplingOptions) -> None:
        """Raise ValueError for a choice_temperature, which a model without tokens has no use for."""
        if options.choice_temperature is not None:
            raise ValueError(
                f"choice_temperature is of masked models; {cls.name} has no tokens to choose"
            )

    @classmethod
    def skeleton(cls, model: str) -> Skeleton | None:
        """Return the skeleton of a published model or of a folder; None for a model of another family."""
        return None

    @classmethod
    def check_chunks(cls, options: ModelOptions) -> None:
        """Raise ValueError for prompts in chunks where the model does not take them so."""
        if options.long_prompts == "chunks":
            check_limits({"prompt_chunks": options.chunks}, {"prompt_chunks": PROMPT_CHUNKS})
            if not cls.chunks_prompts:
                raise ValueError(
                    f"long_prompts is chunks, which SD1.x, SD2.x and SDXL know, whose prompts go through CLIP alone; "
                    f"{cls.name} was not made for prompts in pieces: leave it out"
                )

    @classmethod
    def check_size(cls, path: Path, options: SamplingOptions) -> None:
        """Raise ValueError, before a folder's model is loaded, for sides and frames that it is known not to make."""
        if options.frames is not None and cls.default_frames is None:
            raise ValueError(
                f"{cls.name} makes images, not {options.frames} frames; leave frames out"
            )

    @classmethod
    def image_settings(cls, path: Path) -> dict[str, str]:
        """Return what a folder's images depend on besides its files and how they are sampled, name -> text."""
        return {}

    def set_loss_backend(self, backend: str) -> None:
        """Choose the backend of what the denoiser computes of the loss in its forward pass, if anything."""

    # What follows from it.

    def text_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Return the shapes of what a cache keeps of a prompt, by name; None for its number of tokens."""
        example = self.example_text(1)
        shapes: dict[str, tuple[int | None, ...]] = {
            name: tuple(tensor.shape[1:]) for name, tensor in example.items()
        }
        if shapes.pop(ragged.MASK, None) is not None:
            shapes[ragged.ROWS] = (None, *shapes[ragged.ROWS][1:])
        return shapes

    def dtype_of(self, denoiser: Denoiser) -> torch.dtype:
        """Return the dtype of a denoiser's weights; the model's own stands for a wrapper that is no module."""
        module = denoiser if isinstance(denoiser, nn.Module) else self.denoiser
        return floating_dtype(module)

    def draw(
        self,
        stored: Tensors,
        key: Key,
        own: Key,
        strata: int,
        dtype: torch.dtype,
        conditions: Tensors,
        noise: Tensor | None = None,
    ) -> Draw:
        """Make a draw of B images as `encode` gave them, for the denoiser, with latents in `dtype`.

        key: whose timestep and noise the rows take; own: their own, for the sample of the posterior;
        strata as in `noise.draw_unit`; conditions as `conditions` gave them; noise: (B, C, h, w), in place of
        the key's.
        """
        mean, std = stored["mean"], stored["std"]
        return draw_latents(mean, std, key, own, self.schedule, strata, dtype, conditions, noise)

    def predict(self, denoiser: Denoiser, draw: Draw) -> Tensor:
        """Return the denoiser's answer to a draw, (B, C, h, w); see `call`."""
        return self.call(denoiser, draw.noisy, self.timesteps(draw), draw.conditions)

    def timesteps(self, draw: Draw) -> Tensor:
        """Return what `call` is told of a draw's noise, (B,) float32."""
        return self.schedule.model_timestep(draw.index)

    def example(self, batch: int, height: int, width: int, frames: int | None = None) -> Draw:
        """Return B draws of random numbers, always the same, for images of height x width pixels (videos of
        so many frames, `default_frames` by default).
        """
        ids = torch.arange(batch)
        last = len(self.schedule) - 1
        shape = self.latent_shape(height, width, frames)
        noisy = philox.normal(0, ids, 0, shape, device=self.device)
        return Draw(
            index=torch.linspace(last / 4, last, batch).long().to(self.device),
            noisy=noisy,
            target=noisy,
            conditions=self._example_conditions(batch, height, width),
        )

    def _example_conditions(self, batch: int, height: int, width: int) -> Tensors:
        sizes = image_sizes(batch, height, width, self.device)
        return self.conditions(self.example_text(batch), sizes)

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device)

    @property
    def bucket_step(self) -> int:
        """The sides of images for training must be a multiple of this many pixels."""
        return self.spatial_scale * self.patch


def image_sizes(batch: int, height: int, width: int, device: torch.device | str) -> Tensors:
    """Return the sizes of B images that were neither resized nor cropped; see Model.conditions."""
    side = torch.tensor([[height, width]], device=device).expand(batch, 2)
    return {"original_size": side, "crop": torch.zeros_like(side), "target_size": side}
