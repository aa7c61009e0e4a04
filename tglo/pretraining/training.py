"""Pre-training of the package's small models; here what all share, and that of Stable Diffusion: first
the VAE, then text encoder and UNet together.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import mse_loss

CAPTION_DROPOUT = 0.1
BATCH = 64


def train_vae(vae: Any, pixels: Callable[[], Tensor], steps: int) -> dict[str, Any]:
    """Train ``vae`` in place; pixels: a fresh batch (B, 3, H, W) in [-1, 1] at each call."""
    vae.train()
    optimizer, schedule = _optimizer(list(vae.parameters()), 2e-3, steps)
    error = torch.zeros(())
    for step in range(steps):
        batch = pixels()
        posterior = vae.encode(batch).latent_dist
        error = mse_loss(vae.decode(posterior.sample()).sample, batch)
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).mean()
        _update(error + 3e-4 * kl, optimizer, schedule)
        if step % 100 == 0 or step == steps - 1:
            print(f"vae {step}/{steps}: error {error.item():.4f}, kl {kl.item():.2f}", flush=True)
    vae.eval()
    return {"vae_error": round(error.item(), 5)}


@torch.no_grad()
def scale_latents(vae: Any, pixels: Tensor) -> dict[str, Any]:
    """Set the VAE's scaling factor so that the latents of ``pixels`` have unit variance."""
    deviation = vae.encode(pixels).latent_dist.sample().std().item()
    vae.register_to_config(scaling_factor=round(1.0 / deviation, 4))
    return {"scaling_factor": vae.config.scaling_factor}


@torch.no_grad()
def encode(vae: Any, pixels: Tensor) -> Tensor:
    """Scaled latents (B, 4, H / f, W / f) of pixels (B, 3, H, W) in [-1, 1]."""
    return vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor


def train_denoiser(
    pipeline: Any,
    latents: Tensor,
    prompts: list[str],
    captions: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    steps: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Train text encoder and UNet in place on latents (N, ...), and leave the averaged weights.

    captions: rows of ``latents`` -> for each the index of a prompt that describes it. A tenth of the
    captions are replaced by the empty one.
    """
    ids = token_ids(pipeline.tokenizer, prompts)
    signal = pipeline.scheduler.alphas_cumprod.sqrt()
    noise_level = (1.0 - pipeline.scheduler.alphas_cumprod).sqrt()
    model = nn.ModuleDict({"text_encoder": pipeline.text_encoder, "unet": pipeline.unet})

    def loss() -> Tensor:
        picked, distinct, places = draw_captions(len(latents), captions, len(prompts), generator)
        states = model["text_encoder"](ids[distinct])[0]
        clean = latents[picked]
        timestep = torch.randint(len(signal), (len(clean),))
        noise = torch.randn_like(clean)
        noisy = (
            signal[timestep, None, None, None] * clean
            + noise_level[timestep, None, None, None] * noise
        )
        return mse_loss(model["unet"](noisy, timestep, states[places]).sample, noise)

    return {"denoiser_loss": round(descend(model, loss, steps, "denoiser"), 5)}


def token_ids(tokenizer: Any, prompts: list[str]) -> Tensor:
    """Token ids (P + 1, L) int64 of the prompts and, last, of the empty one."""
    return tokenizer(
        [*prompts, ""], padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids


def draw_captions(
    rows: int,
    captions: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    empty: int,
    generator: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of rows and their captions, a tenth of them ``empty``: the rows (B,), the different
    captions (C,), and the place (B,) of each row's among those; all int64.
    """
    picked = generator.integers(rows, size=BATCH)
    chosen = captions(picked)
    chosen[generator.random(BATCH) < CAPTION_DROPOUT] = empty
    distinct, places = np.unique(chosen, return_inverse=True)
    return torch.from_numpy(picked), torch.from_numpy(distinct), torch.from_numpy(places)


def descend(model: nn.Module, loss_of: Callable[[], Tensor], steps: int, name: str) -> float:
    """Train ``model`` in place, leave the averaged weights, in eval mode, and return the recent loss."""
    model.train()
    averaged = copy.deepcopy(model).requires_grad_(False)
    optimizer, schedule = _optimizer(list(model.parameters()), 2e-3, steps)
    recent, started = 1.0, time.perf_counter()
    for step in range(steps):
        loss = loss_of()
        _update(loss, optimizer, schedule)
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


def main(
    description: str,
    pretrain: Callable[..., dict[str, Any]],
    output: Path,
    *,
    vae_steps: int,
    steps: int,
) -> None:
    """The command line: parse it, run ``pretrain(output, seed=, vae_steps=, steps=)``, print what it
    reached, and keep that in the folder as pretrain.json.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--output", type=Path, default=output, help="folder to create; must not exist yet"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae-steps", type=int, default=vae_steps)
    parser.add_argument("--steps", type=int, default=steps)
    given = parser.parse_args()
    if given.output.exists():
        raise SystemExit(f"{given.output} exists: remove it, or name another folder with --output")
    given.output.parent.mkdir(parents=True, exist_ok=True)  # known now and not after the training
    reached = pretrain(given.output, seed=given.seed, vae_steps=given.vae_steps, steps=given.steps)
    text = json.dumps(reached, indent=2)
    (given.output / "pretrain.json").write_text(text + "\n")
    print(text)


def _optimizer(parameters: list[nn.Parameter], rate: float, steps: int) -> tuple[Any, Any]:
    """AdamW, warmed up over 100 steps and decayed to zero along a cosine."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=1e-3)

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / 100) * 0.5 * (1.0 + math.cos(math.pi * step / steps))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _update(loss: Tensor, optimizer: Any, schedule: Any) -> None:
    if not torch.isfinite(loss):
        raise RuntimeError(f"pre-training diverged: the loss is {loss.item()}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    schedule.step()
