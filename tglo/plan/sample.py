"""What one sample of a plan is, an image or a clip: its size, and what it becomes in the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tglo.models.skeleton import Skeleton


@dataclass(frozen=True)
class Sample:
    """An image or a clip, as the denoiser takes it."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    frames: int | None
    """Of a clip; None for an image."""
    tokens: int | None
    """Patches that a transformer attends over; None for a UNet."""
    elements: int
    """Latent elements."""

    def __str__(self) -> str:
        clip = f"{self.frames} frames of " if self.frames else ""
        tokens = f"{self.tokens:,} tokens, " if self.tokens else ""
        return (
            f"{clip}{self.height} x {self.width} pixels: {tokens}{self.elements:,} latent elements"
        )


def sample_of(
    model: str,
    skeleton: Skeleton,
    *,
    resolution: int | None = None,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
) -> Sample:
    """Return a sample of a model: of the model's own size and length where nothing else is asked for.

    resolution: both sides. ValueError for a side that the model's levels or patches do not divide, frames that
    its VAE cannot have, and frames of images.
    """
    sides = {"height": height, "width": width}
    if resolution is not None:
        _check_side(model, skeleton, "resolution", resolution)
        sides = dict.fromkeys(sides, resolution)
    own = dict(zip(sides, skeleton.default_size, strict=True))
    chosen = {name: own[name] if side is None else side for name, side in sides.items()}
    for name, side in chosen.items():
        _check_side(model, skeleton, name, side)
    if frames is not None and skeleton.default_frames is None:
        raise ValueError(f"frames is {frames}, but {model} makes images; leave --frames out")
    frames = skeleton.default_frames if frames is None else frames
    size = (chosen["height"], chosen["width"], frames)
    shape = skeleton.latent_shape(*size)
    return Sample(*size, tokens=skeleton.tokens(*size), elements=math.prod(shape))


def _check_side(model: str, skeleton: Skeleton, name: str, side: int) -> None:
    step = skeleton.size_step
    if side < step or side % step:
        raise ValueError(
            f"{name} is {side}; {model} needs a multiple of {step}, such as {max(1, side // step) * step}"
        )
