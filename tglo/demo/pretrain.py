"""Builds and pre-trains the demo's base model: ``python -m tglo.demo.pretrain [--output FOLDER]``.

A true StableDiffusionPipeline in miniature (byte-level CLIPTokenizer, CLIPTextModel,
UNet2DConditionModel, AutoencoderKL), trained on real handwritten digits. The result ships inside
the package, so that ``tglo demo`` only aligns. Takes about 20 minutes on two CPU cores; the same
seed gives the same weights on the same machine.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss
from transformers import CLIPTokenizer

from tglo.demo import classifier, digits, scorer
from tglo.demo.architecture import build_pipeline
from tglo.demo.settings import BASE, GUIDANCE

CAPTION_DROPOUT = 0.1
DRAWINGS_PER_DIGIT = 16  # pens and positions that every real digit is drawn with


def train_vae(
    vae: Any, data: digits.Digits, steps: int, generator: np.random.Generator
) -> dict[str, Any]:
    """Trains ``vae`` in place on freshly drawn digits and sets its scaling factor to unit latent
    variance.
    """
    vae.train()
    optimizer, schedule = _optimizer(list(vae.parameters()), 2e-3, steps)
    error = torch.zeros(())
    for step in range(steps):
        # Evenly, so that no boldness is a rare one to the decoder.
        pens = generator.uniform(1.0, 6.0, size=32)
        pixels = _pixels(data, generator.integers(len(data), size=32), pens, generator)
        posterior = vae.encode(pixels).latent_dist
        error = mse_loss(vae.decode(posterior.sample()).sample, pixels)
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).mean()
        _update(error + 3e-4 * kl, optimizer, schedule)
        if step % 100 == 0 or step == steps - 1:
            print(f"vae {step}/{steps}: error {error.item():.4f}, kl {kl.item():.2f}", flush=True)
    vae.eval()
    with torch.no_grad():
        pens = digits.random_pens(generator, 512)
        posterior = vae.encode(_pixels(data, np.arange(512), pens, generator)).latent_dist
    vae.register_to_config(scaling_factor=round(1.0 / posterior.sample().std().item(), 4))
    return {"vae_error": round(error.item(), 5), "scaling_factor": vae.config.scaling_factor}


def train_denoiser(
    pipeline: Any,
    data: digits.Digits,
    steps: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Trains text encoder and UNet together on cached latents, then puts the averaged weights in
    place.
    """
    rows = np.tile(np.arange(len(data)), DRAWINGS_PER_DIGIT)
    latents = torch.cat(
        [_encode(pipeline.vae, data, part, generator) for part in np.array_split(rows, 300)]
    )
    tokens = _tokenize(pipeline.tokenizer, [*digits.PROMPTS, ""])
    empty = len(digits.PROMPTS)
    signal = pipeline.scheduler.alphas_cumprod.sqrt()
    noise_level = (1.0 - pipeline.scheduler.alphas_cumprod).sqrt()

    model = nn.ModuleDict({"text_encoder": pipeline.text_encoder, "unet": pipeline.unet}).train()
    averaged = copy.deepcopy(model).requires_grad_(False)
    optimizer, schedule = _optimizer(list(model.parameters()), 2e-3, steps)
    recent, started = 1.0, time.perf_counter()
    for step in range(steps):
        picked = generator.integers(len(rows), size=64)
        captions = data.labels[rows[picked]]
        captions[generator.random(len(picked)) < CAPTION_DROPOUT] = empty
        clean = latents[torch.from_numpy(picked)]
        timestep = torch.randint(len(signal), (len(clean),))
        noise = torch.randn_like(clean)
        noisy = (
            signal[timestep, None, None, None] * clean
            + noise_level[timestep, None, None, None] * noise
        )
        states = model["text_encoder"](tokens)[0][torch.from_numpy(captions)]
        loss = mse_loss(model["unet"](noisy, timestep, states).sample, noise)
        _update(loss, optimizer, schedule)
        decay = min(0.999, (step + 1) / (step + 10))
        for average, current in zip(averaged.parameters(), model.parameters(), strict=True):
            average.lerp_(current.detach(), 1.0 - decay)
        recent += 0.01 * (loss.item() - recent)
        if step % 200 == 0 or step == steps - 1:
            seconds = time.perf_counter() - started
            print(f"denoiser {step}/{steps}: loss {recent:.4f}, {seconds:.0f} s", flush=True)
    model.load_state_dict(averaged.state_dict())
    model.eval()
    return {"denoiser_loss": round(recent, 5)}


def _pixels(
    data: digits.Digits, rows: np.ndarray, pens: np.ndarray, generator: np.random.Generator
) -> torch.Tensor:
    """Drawings of ``rows`` with ``pens``, moved by up to a pixel: (B, 3, 32, 32), paper 1 and ink
    -1.
    """
    ink = data.draw(rows, pens)
    for plane, (down, right) in zip(
        ink, generator.integers(-1, 2, size=(len(ink), 2)), strict=True
    ):
        plane[:] = np.roll(plane, (down, right), axis=(0, 1))
    return (1.0 - 2.0 * torch.from_numpy(ink)).unsqueeze(1).repeat(1, 3, 1, 1)


@torch.no_grad()
def _encode(
    vae: Any, data: digits.Digits, rows: np.ndarray, generator: np.random.Generator
) -> torch.Tensor:
    pixels = _pixels(data, rows, digits.random_pens(generator, len(rows)), generator)
    return vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor


def _tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
    return tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def _optimizer(parameters: list[nn.Parameter], rate: float, steps: int) -> tuple[Any, Any]:
    """AdamW, warmed up over 100 steps and decayed to zero along a cosine."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=1e-3)

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / 100) * 0.5 * (1.0 + math.cos(math.pi * step / steps))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _update(loss: torch.Tensor, optimizer: Any, schedule: Any) -> None:
    if not torch.isfinite(loss):
        raise RuntimeError(f"pre-training diverged: the loss is {loss.item()}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    schedule.step()


def measure(folder: Path, count: int = 600) -> dict[str, Any]:
    """What ``count`` samples of the saved model are worth to reader and judge."""
    from tglo import models

    prompts = [digits.PROMPTS[i % len(digits.PROMPTS)] for i in range(count)]
    images = models.load(folder).generate(
        prompts, range(count), steps=12, guidance=GUIDANCE, batch_size=64
    )
    widths = scorer.stroke_width(images)
    return {
        "samples": count,
        "accuracy": round(classifier.accuracy(images, prompts), 4),
        "legibility": round(float(scorer.legibility(images, prompts).mean()), 4),
        "stroke_width_mean": round(float(widths.mean()), 3),
        "stroke_width_deviation": round(float(widths.std()), 3),
    }


def pretrain(output: Path, *, seed: int, vae_steps: int, steps: int) -> dict[str, Any]:
    """Trains everything, saves the pipeline folder ``output`` and returns (and prints) what it
    reached.
    """
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    started = time.perf_counter()
    data = digits.load()
    pipeline = build_pipeline()
    reached = train_vae(pipeline.vae, data, vae_steps, generator)
    reached |= train_denoiser(pipeline, data, steps, generator)
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        folder = Path(scratch) / "base"
        pipeline.save_pretrained(folder)
        folder.replace(output)
    reached |= {"seed": seed, "vae_steps": vae_steps, "steps": steps}
    reached["seconds"] = round(time.perf_counter() - started)
    reached |= measure(output)
    (output / "pretrain.json").write_text(json.dumps(reached, indent=2) + "\n")
    return reached


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pre-trains the demo's base model.")
    parser.add_argument(
        "--output", type=Path, default=BASE, help="folder to create; must not exist yet"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae-steps", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=6000)
    arguments = parser.parse_args()
    if arguments.output.exists():
        raise SystemExit(
            f"{arguments.output} exists: remove it, or name another folder with --output"
        )
    print(
        json.dumps(
            pretrain(
                arguments.output,
                seed=arguments.seed,
                vae_steps=arguments.vae_steps,
                steps=arguments.steps,
            ),
            indent=2,
        )
    )
