"""Scenes as 32x32 drawings.

Whatever the sentence leaves open varies from drawing to drawing: the places of the things, their size
within their class, the vividness of the colours, the brightness of the paper, and stripes on it.
Rewards other than faithfulness have preferences about those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tglo.shapes.scenes import AXES, COLOURS, SHAPES, SIZES, Scene

SIZE = 32  # pixels of a side
Floats = NDArray[np.float32]

_OVERSAMPLING = 3
_RADII = {"small": (2.7, 3.7), "large": (5.2, 6.4)}  # half of a thing's width, in pixels
_PALETTE = np.array(
    [
        (0.90, 0.10, 0.12),
        (1.00, 0.52, 0.05),
        (0.96, 0.88, 0.10),
        (0.10, 0.66, 0.22),
        (0.12, 0.28, 0.92),
        (0.56, 0.14, 0.74),
    ],
    dtype=np.float32,
)


@dataclass(frozen=True)
class Layout:
    """The choices that a sentence leaves open, for B scenes; float32."""

    centres: Floats
    """(B, 2, 2): x and y of each thing, in pixels from the left and from the top."""
    radii: Floats
    """(B, 2): half widths in pixels."""
    vividness: Floats
    """(B,): 1 for pure colours, 0 for grey."""
    paper: Floats
    """(B,): brightness of the background."""
    stripes: Floats
    """(B, 3): amplitude, radians per pixel along x and along y."""


def random_layout(scenes: Sequence[Scene], generator: np.random.Generator) -> Layout:
    """Draw layouts as in the base model's training."""
    count = len(scenes)
    along = np.array([8.0, 24.0]) + generator.uniform(-1.5, 1.5, (count, 2))
    across = SIZE / 2 + generator.uniform(-6.0, 6.0, (count, 2))
    vertical = np.array([scene.axis == AXES[0] for scene in scenes])[:, None]
    centres = np.stack([np.where(vertical, across, along), np.where(vertical, along, across)], -1)
    limits = np.array([[_RADII[t.size] for t in (s.first, s.second)] for s in scenes])
    radii = limits[..., 0] + generator.random((count, 2)) * (limits[..., 1] - limits[..., 0])
    angle = generator.uniform(0, np.pi, count)
    frequency = 2 * np.pi / generator.uniform(5.0, 9.0, count)
    amplitude = 0.16 * generator.beta(1.0, 2.0, count)
    stripes = np.stack([amplitude, frequency * np.cos(angle), frequency * np.sin(angle)], axis=-1)
    vividness = 0.35 + 0.65 * generator.beta(1.5, 2.0, count)
    paper = generator.uniform(0.72, 0.98, count)
    values = (centres, radii, vividness, paper, stripes)
    return Layout(*(value.astype(np.float32) for value in values))


def draw(scenes: Sequence[Scene], layout: Layout) -> Floats:
    """Draw scenes: (B, 32, 32, 3) float32 in [0, 1]; where things overlap, the second is in front."""
    points = np.arange(SIZE * _OVERSAMPLING) + 0.5
    fine = (points / _OVERSAMPLING).astype(np.float32)
    x, y = fine[None, None, :], fine[None, :, None]
    amplitude, along_x, along_y = (v[:, None, None] for v in layout.stripes.T)
    paper = layout.paper[:, None, None] + amplitude * np.sin(along_x * x + along_y * y)
    canvas = np.repeat(paper[..., None], 3, axis=-1)
    codes = np.array([scene.codes() for scene in scenes]).reshape(len(scenes), 7)
    vividness = layout.vividness[:, None]
    for thing in range(2):
        _, colours, shapes = codes[:, 1 + 3 * thing : 4 + 3 * thing].T
        pure = _PALETTE[colours]
        colour = vividness * pure + (1 - vividness) * pure.mean(axis=1, keepdims=True)
        inside = _inside(shapes, x, y, layout.centres[:, thing], layout.radii[:, thing])
        canvas = np.where(inside[..., None], colour[:, None, None, :], canvas)
    blocks = (len(scenes), SIZE, _OVERSAMPLING, SIZE, _OVERSAMPLING, 3)
    return np.clip(canvas.reshape(blocks).mean(axis=(2, 4)), 0, 1).astype(np.float32)


def to_images(drawings: Floats) -> list[Image.Image]:
    """Convert drawings (B, 32, 32, 3) in [0, 1] to RGB images."""
    return [Image.fromarray(d) for d in np.round(255 * drawings).astype(np.uint8)]


def to_array(images: Sequence[Image.Image], mode: Literal["RGB", "L"] = "RGB") -> Floats:
    """Convert images of any size and mode to (B, 32, 32, 3), or grey (B, 32, 32); float32 in [0, 1]."""
    channels = (3,) if mode == "RGB" else ()
    pixels = np.zeros((len(images), SIZE, SIZE, *channels), np.float32)
    for image, target in zip(images, pixels, strict=True):
        plane = image.convert(mode)
        if plane.size != (SIZE, SIZE):
            plane = plane.resize((SIZE, SIZE), Image.Resampling.BOX)
        target[:] = np.asarray(plane, dtype=np.float32) / 255
    return pixels


def _inside(
    shapes: NDArray[np.int64], x: Floats, y: Floats, centres: Floats, radii: Floats
) -> NDArray[np.bool_]:
    """Return the points that each shape covers, (B, H, W). All four have about the same area."""
    x = (x - centres[:, 0, None, None]) / radii[:, None, None]
    y = (y - centres[:, 1, None, None]) / radii[:, None, None]
    across, down = np.abs(x), np.abs(y)
    covers = {
        "circle": x**2 + y**2 < 1.05,
        "square": np.maximum(across, down) < 0.9,
        "triangle": (y < 0.95) & (y > 2.1 * across - 1.25),
        "cross": (np.minimum(across, down) < 0.38) & (np.maximum(across, down) < 1.12),
    }
    kinds = np.stack([covers[name] for name in SHAPES])
    return kinds[shapes, np.arange(len(shapes))]


assert len(_PALETTE) == len(COLOURS) and set(_RADII) == set(SIZES)
