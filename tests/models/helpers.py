from __future__ import annotations

import torch

from tglo import models
from tglo.noise.draw import Draw


def example(family: models.Family, batch: int = 2, side: int = 8) -> Draw:
    """A draw of random latents for `predict`."""
    generator = torch.Generator().manual_seed(3)
    noisy = torch.randn(batch, family.codec.shape(side, side)[0], side, side, generator=generator)
    index = torch.linspace(10, 900, batch).long()
    sizes = {
        "original_size": torch.tensor([[40, 24]] * batch),
        "crop": torch.tensor([[3, 0]] * batch),
        "target_size": torch.tensor([[16, 16]] * batch),
    }
    text = family.text([f"a handwritten {word}" for word in ("seven", "two", "nine")[:batch]])
    return Draw(index, noisy, noisy, family.conditions(text, sizes))


def perturb(module: torch.nn.Module, scale: float = 0.05, seed: int = 1) -> None:
    """Stands for training: changes the weights that require a gradient."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_((scale * noise).to(parameter))
