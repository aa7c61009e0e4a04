"""What the miniatures of others' scripts share: a small denoiser, a noised batch, the blocks of docs/drop-in.md, and
the loss written out in float64.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tglo import tgo_loss

DOCS = Path(__file__).parents[2] / "docs"
PAGE = "".join((DOCS / name).read_text() for name in ("drop-in.md", "masked.md", "wrappers.md"))
BLOCKS = dict(re.findall(r"<!-- run: (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))
BLOCKS_OF_PAGE = len(BLOCKS)


class Denoiser(nn.Module):
    """The least that has a denoiser's inputs: latents (B, 4, 8, 8), timesteps (B,), text (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4, 8, 3, padding=1)
        self.condition = nn.Linear(4, 8)
        self.leave = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        condition = self.condition(torch.cat([timesteps[:, None] / 1000, text], 1))
        return self.leave(functional.silu(self.enter(noisy) + condition[:, :, None, None]))


class Adapted(nn.Module):
    """A frozen denoiser with a trained one beside it that can be switched off, as a LoRA can."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base, self.adapter = base.requires_grad_(False), Denoiser()
        self.multiplier = 0.05

    def forward(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        inputs = noisy, timesteps, text
        if self.multiplier == 0:
            return self.base(*inputs)  # type: ignore[no-any-return]
        return self.base(*inputs) + self.multiplier * self.adapter(*inputs)  # type: ignore[no-any-return]

    def set_multiplier(self, multiplier: float) -> None:
        self.multiplier = 0.05 * multiplier

    def disable_adapters(self) -> None:
        self.set_multiplier(0.0)

    def enable_adapters(self) -> None:
        self.set_multiplier(1.0)


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    share = (timesteps / 1000).view(-1, 1, 1, 1)
    return (1 - share).sqrt() * latents + share.sqrt() * noise


def make_batch(size: int) -> dict[str, Tensor]:
    return {
        "latents": torch.randn(size, 4, 8, 8),
        "text": torch.randn(size, 3),
        "scores": torch.rand(size, dtype=torch.float64),
        "labels": torch.arange(size) % 2 == 1,
        "ids": torch.arange(size),
    }


def make_step(latents: Tensor, pairs: bool = False) -> dict[str, Any]:
    """The names that a script has around its loss, with the noise as target and a policy that has moved. Rows i
    and i + B / 2 of pairs share noise, timestep and text.
    """
    torch.manual_seed(0)
    rows = len(latents)
    policy = Denoiser()
    reference = copy.deepcopy(policy).requires_grad_(False)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    noise, timesteps = torch.randn_like(latents), torch.randint(1, 1000, (rows,))
    text = torch.randn(rows, 3)
    if pairs:
        noise, timesteps, text = (torch.cat([x[: rows // 2]] * 2) for x in (noise, timesteps, text))
    inputs = add_noise(latents, noise, timesteps), timesteps, text
    return {
        "torch": torch,
        "tgo_loss": tgo_loss,
        "policy": policy,
        "unet": policy,
        "reference": reference,
        "latents": latents,
        "noise": noise,
        "target": noise,
        "timesteps": timesteps,
        "noisy_latents": inputs[0],
        "text": text,
        "model_pred": policy(*inputs),
        "ref_preds": reference(*inputs),
        "batch": make_batch(rows),
        "threshold": SimpleNamespace(value=0.5),
    }


def run(name: str, space: dict[str, Any]) -> dict[str, Any]:
    exec(compile(BLOCKS[name], f"docs:{name}", "exec"), space)
    return space


def gradient(space: dict[str, Any]) -> list[Tensor]:
    """Of the block's loss, in every parameter; none may be missing, zero or not finite."""
    parameters = [p for p in space["policy"].parameters() if p.requires_grad]
    found = torch.autograd.grad(space["loss"], parameters, retain_graph=True)
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in found)
    return list(found)


def squares(prediction: Tensor, target: Tensor) -> Tensor:
    """e of each row in float64."""
    return (prediction.double() - target.double()).square().flatten(1).mean(1)


def plain_loss(
    difference: Tensor,
    scores: Tensor,
    threshold: float = 0.5,
    *,
    temperature: float = 1e-3,
    confidence: float = 5.0,
) -> Tensor:
    """The formula, (B,) float64, of e_theta - e_ref, (B,) float64, which may be weighted."""
    scores = scores.double()
    sign = torch.where(scores >= threshold, 1.0, -1.0)
    weight = 1 + confidence * (scores - threshold).abs()
    return weight * functional.softplus(sign * difference / temperature)


def assert_same(
    loss: Tensor, prediction: Tensor, truth: Callable[[Tensor], Tensor], rtol: float = 1e-4
) -> None:
    """The loss and its gradient in the prediction are those of the formula in float64."""
    wide = prediction.detach().double().requires_grad_()
    expected = truth(wide)
    torch.testing.assert_close(loss.double(), expected, rtol=rtol, atol=1e-7)
    (found,) = torch.autograd.grad(loss, prediction, retain_graph=True)
    (slope,) = torch.autograd.grad(expected, wide)
    assert slope.abs().max() > 0
    largest = slope.abs().max().item()
    torch.testing.assert_close(found.double(), slope, rtol=rtol, atol=rtol * largest)
