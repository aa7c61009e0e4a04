"""What the original reward models do to an image, from their sources and the formula of the kernel."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def to_pixels(image: Image.Image) -> Tensor:
    """(3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def crop_of_shorter_side(image: Image.Image, size: int, floor: bool = False) -> Tensor:
    """torchvision's Resize(size, BICUBIC) and CenterCrop(size) of a PIL image, ToTensor, Normalize.

    floor: margins as transformers halves them.
    """
    width, height = image.size
    if width <= height:
        new_width, new_height = size, int(size * height / width)
    else:
        new_width, new_height = int(size * width / height), size
    resized = np.array(image.resize((new_width, new_height), Image.Resampling.BICUBIC))
    if floor:
        top, left = (new_height - size) // 2, (new_width - size) // 2
    else:
        top, left = round((new_height - size) / 2.0), round((new_width - size) / 2.0)
    crop = Image.fromarray(resized[top : top + size, left : left + size])
    return (to_pixels(crop) - MEAN) / STD


def letterboxed(image: Image.Image, size: int, antialias: bool = True) -> Tensor:
    """HPSv2's: the longer side of the float tensor to size, padded with black, Normalize."""
    pixels = to_pixels(image).double().numpy()
    scale = size / max(image.size)
    height, width = round(image.height * scale), round(image.width * scale)
    rows = bicubic_matrix(image.height, height, antialias)
    columns = bicubic_matrix(image.width, width, antialias)
    out = np.zeros((3, size, size))
    top, left = (size - height) // 2, (size - width) // 2
    out[:, top : top + height, left : left + width] = rows @ pixels @ columns.T
    return (torch.from_numpy(out).float() - MEAN) / STD


def bicubic_matrix(before: int, after: int, antialias: bool) -> np.ndarray:
    """(after, before): Keys' kernel; antialias widens it to the step, with a = -0.5, as PIL."""
    a = -0.5 if antialias else -0.75
    step = before / after
    stretch = max(step, 1.0) if antialias else 1.0
    matrix = np.zeros((after, before))
    for i in range(after):
        centre = (i + 0.5) * step - 0.5
        for j in range(math.floor(centre - 2 * stretch), math.ceil(centre + 2 * stretch) + 1):
            x = abs(j - centre) / stretch
            if x < 1:
                weight = (a + 2) * x**3 - (a + 3) * x**2 + 1
            elif x < 2:
                weight = a * (x**3 - 5 * x**2 + 8 * x - 4)
            else:
                continue
            if antialias and not 0 <= j < before:
                continue  # left out, and the others weigh more; without antialias: the edge again
            matrix[i, min(max(j, 0), before - 1)] += weight
    return matrix / matrix.sum(1, keepdims=True)
