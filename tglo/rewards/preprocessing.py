"""Prepares images for the reward models exactly as their own code does, pixel for pixel.

There are two ways, both bicubic and followed by (x / 255 - mean) / std with CLIP's mean and std:
`shorter_side_crop`, on 8-bit pixels, antialiased (PIL's, a = -0.5), for CLIP, PickScore, the
aesthetic predictor and ImageReward; `letterbox`, on floats, for HPSv2.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tglo.data.images import as_rgb

MEAN = (0.48145466, 0.4578275, 0.40821073)  # RGB in [0, 1], github.com/openai/CLIP
STD = (0.26862954, 0.26130258, 0.27577711)
_LONG = 32  # beyond this aspect ratio only the crop is resampled, to bound the memory


def pixel_batch(images: list[Image.Image], transform: Callable[[Image.Image], Tensor]) -> Tensor:
    """Apply transform to each image as RGB, in threads: (B, 3, S, S) float32, standardised."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        pixels = torch.stack(list(pool.map(lambda image: transform(as_rgb(image)), images)))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def shorter_side_crop(
    image: Image.Image, size: int, centre: Literal["nearest", "down"] = "nearest"
) -> Tensor:
    """Scale the shorter side to size and crop the middle: RGB to (3, size, size) float32 in [0, 1].

    The longer side is truncated to whole pixels. centre: the way to halve an odd margin; torchvision
    rounds to the nearest (half to even), transformers down. Of a long thin image only the crop is
    resampled, which gives the same pixels.
    """
    width, height = image.size
    short = min(width, height)
    new = (
        size if width == short else int(size * width / height),
        size if height == short else int(size * height / width),
    )
    halve = round if centre == "nearest" else int
    left, top = (halve((side - size) / 2) for side in new)
    if max(new) <= _LONG * size:
        if new != image.size:
            image = image.resize(new, Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + size, top + size))
    else:
        x, y = width / new[0], height / new[1]
        box = (left * x, top * y, min(width, (left + size) * x), min(height, (top + size) * y))
        image = image.resize((size, size), Image.Resampling.BICUBIC, box)
    return _as_floats(image)


def letterbox(image: Image.Image, size: int, *, antialias: bool = True) -> Tensor:
    """Scale the longer side to size, black around it: RGB to (3, size, size) float32, about [0, 1].

    HPSv2 does this to a float tensor, so bicubic overshoot stays. antialias=True is the resize of
    torchvision since 0.17; False is the one before (a = -0.75, no low-pass).
    """
    pixels = _as_floats(image)
    scale = size / max(image.size)
    if scale != 1.0:
        new = [max(1, round(side * scale)) for side in pixels.shape[1:]]
        pixels = torch.nn.functional.interpolate(
            pixels[None], size=new, mode="bicubic", align_corners=False, antialias=antialias
        )[0]
    height, width = (size - side for side in pixels.shape[1:])
    margins = (width // 2, width - width // 2, height // 2, height - height // 2)
    return torch.nn.functional.pad(pixels, margins)


def _as_floats(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.permute(2, 0, 1).to(torch.float32).div_(255).contiguous()
