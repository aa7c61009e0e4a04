"""What the reward models' own code does to an image before the network, pixel for pixel.

Two ways exist, both bicubic and followed by (x / 255 - mean) / std with CLIP's mean and std:
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

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of RGB in [0, 1], github.com/openai/CLIP
STD = (0.26862954, 0.26130258, 0.27577711)
_LONG = 32  # beyond this aspect ratio only the crop is resampled, to bound the memory


def pixel_batch(images: list[Image.Image], transform: Callable[[Image.Image], Tensor]) -> Tensor:
    """transform of each image as RGB, in threads: (B, 3, S, S) float32, standardised."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        pixels = torch.stack(list(pool.map(lambda image: transform(as_rgb(image)), images)))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def shorter_side_crop(
    image: Image.Image, size: int, centre: Literal["nearest", "down"] = "nearest"
) -> Tensor:
    """RGB to (3, size, size) float32 in [0, 1]: the shorter side to size, then the middle.

    The longer side is truncated to whole pixels. centre: how an odd margin is halved; torchvision
    rounds to the nearest (half to even), transformers down. A long thin image gives the same
    crop without resizing what the crop leaves out.
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
    """RGB to (3, size, size) float32, about [0, 1]: the longer side to size, black around it.

    HPSv2 does this to a float tensor, so bicubic overshoot stays. antialias=False is the resize of
    torchvision before 0.17 (a = -0.75, no low-pass), True the one since.
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
