"""The pre-training that the small base models share."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CAPTION_DROPOUT = 0.1
BATCH = 64

Captions = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Maps rows of the training data to the indices of prompts that describe them."""
Trained = tuple[Any, dict[str, Any]]
"""The trained pipeline, and what it reached."""


@dataclass(frozen=True)
class Recipe:
    """One base model: where it ships, how long its autoencoder and its denoiser are trained, and how."""

    folder: Path
    vae_steps: int
    steps: int
    train: Callable[[np.random.Generator, int, int], Trained]
    """Called with a generator, vae_steps and steps."""
    measure: Callable[[Path], dict[str, Any]] = lambda folder: {}
    """Judges the saved pipeline."""


def pretrain(
    recipe: Recipe, output: Path, *, seed: int, vae_steps: int, steps: int
) -> dict[str, Any]:
    """Train everything, save the pipeline folder ``output`` and return what was reached."""
    torch.manual_seed(seed)
    started = time.perf_counter()
    pipeline, reached = recipe.train(np.random.default_rng(seed), vae_steps, steps)
    save(pipeline, output)
    reached |= {"seed": seed, "vae_steps": vae_steps, "steps": steps}
    reached["seconds"] = round(time.perf_counter() - started)
    return reached | recipe.measure(output)


def token_ids(tokenizer: Any, prompts: list[str]) -> Tensor:
    """Return token ids (P + 1, L) int64 of the prompts and, last, of the empty one."""
    return tokenizer(
        [*prompts, ""], padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids


def draw_captions(
    rows: int,
    captions: Captions,
    empty: int,
    generator: np.random.Generator,
    dropout: float = CAPTION_DROPOUT,
    batch: int = BATCH,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a batch of rows and their captions, a tenth of them ``empty``: the rows (B,), the different
    captions (C,), and the place (B,) of each row's among those; all int64.

    dropout: the share of empty captions; models without guidance need none.
    """
    picked = generator.integers(rows, size=batch)
    chosen = captions(picked)
    chosen[generator.random(batch) < dropout] = empty
    distinct, places = np.unique(chosen, return_inverse=True)
    return torch.from_numpy(picked), torch.from_numpy(distinct), torch.from_numpy(places)


def descend(model: nn.Module, loss_of: Callable[[], Tensor], steps: int, name: str) -> float:
    """Train ``model`` in place, leave the averaged weights, in eval mode, and return the recent loss."""
    model.train()
    averaged = copy.deepcopy(model).requires_grad_(False)
    optimizer, schedule = make_optimizer(list(model.parameters()), 2e-3, steps)
    recent, started = 1.0, time.perf_counter()
    for step in range(steps):
        loss = loss_of()
        update(loss, optimizer, schedule)
        decay = min(0.999, (step + 1) / (step + 10))
        for average, current in zip(averaged.parameters(), model.parameters(), strict=True):
            average.lerp_(current.detach(), 1.0 - decay)
        recent += max(0.01, 1.0 / (step + 1)) * (loss.item() - recent)
        if step % 200 == 0 or step == steps - 1:
            seconds = time.perf_counter() - started
            print(f"{name} {step}/{steps}: loss {recent:.4f}, {seconds:.0f} s", flush=True)
    model.load_state_dict(averaged.state_dict())
    model.eval()
    return recent


def save(pipeline: Any, output: Path) -> None:
    """Save the pipeline folder at once or not at all."""
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        folder = Path(scratch) / "base"
        pipeline.save_pretrained(folder)
        folder.replace(output)


def make_optimizer(parameters: list[nn.Parameter], rate: float, steps: int) -> tuple[Any, Any]:
    """Return AdamW and its rate, warmed up over 100 steps and decayed to zero along a cosine."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=1e-3)

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / 100) * 0.5 * (1.0 + math.cos(math.pi * step / steps))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def update(loss: Tensor, optimizer: Any, schedule: Any) -> None:
    """Take one step along the clipped gradient. RuntimeError for a loss that is not finite."""
    if not torch.isfinite(loss):
        raise RuntimeError(f"pre-training diverged: the loss is {loss.item()}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    schedule.step()
