"""Images from a model with the scheduler of its folder."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from tglo.models.execution.modes import evaluating
from tglo.settings import SamplingOptions

if TYPE_CHECKING:
    from tglo.models.families.base import Family

_KNOWN_PROMPTS = 512  # embeddings kept at a time; SDXL's take 0.3 MB each in half precision


@torch.no_grad()
def generate(
    family: Family,
    prompts: Sequence[str],
    seeds: Sequence[int],
    options: SamplingOptions = SamplingOptions(),
    *,
    batch_size: int = 8,
    denoiser: Callable[..., Any] | None = None,
    progress: bool = False,
) -> list[Image.Image]:
    """Sample one RGB image per prompt and seed, as the family's pipeline makes it.

    Every image has a CPU generator of its own, so it depends on its prompt and seed and not on the
    batch it is made in (but for float rounding). A guidance of 1 or less runs without guidance.
    choice_temperature, for masked models alone, says how much chance there is in which tokens a step
    fixes: it holds for the first step and falls to 0 at the last. 0 fixes the surest; the default is the
    pipelines', 2. denoiser: sample another module, such as an average or a reference; its train or
    eval mode is left as it was. Raises ValueError for lists of different lengths, sizes the VAE
    cannot make, and a choice_temperature below 0 or for a model without tokens.
    """
    denoiser = family.denoiser if denoiser is None else denoiser
    options = options.resolved(family.default_resolution)
    _check(prompts, seeds, options, batch_size, family.size_step)
    scheduler = type(family.scheduler).from_config(family.scheduler.config)
    known: dict[str, dict[str, Tensor]] = {}
    images: list[Image.Image] = []
    bar = tqdm(total=len(prompts), desc="images", disable=not progress)
    with evaluating(denoiser), bar:
        empty = family.unconditional() if options.guidance > 1 else None
        for start in range(0, len(prompts), batch_size):
            batch = slice(start, start + batch_size)
            text = _text(family, prompts[batch], known)
            count = len(prompts[batch])
            if empty is not None:
                text = {k: torch.cat([empty[k].expand_as(v), v]) for k, v in text.items()}
            rows = count if empty is None else 2 * count
            sizes = image_sizes(rows, *options.size, family.device)
            conditions = family.conditions(text, sizes)
            generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds[batch]]
            pixels = family.sample(denoiser, scheduler, conditions, generators, options)
            images += to_images(pixels)
            bar.update(count)
    return images


def image_sizes(
    batch: int, height: int, width: int, device: torch.device | str
) -> dict[str, Tensor]:
    """The sizes of B images that were neither resized nor cropped; see Family.conditions."""
    side = torch.tensor([[height, width]], device=device).expand(batch, 2)
    return {"original_size": side, "crop": torch.zeros_like(side), "target_size": side}


def to_images(pixels: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) float in [-1, 1] -> B RGB images."""
    levels = (pixels * 0.5 + 0.5).clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
    return [Image.fromarray(array) for array in levels.permute(0, 2, 3, 1).contiguous().numpy()]


def denoise(
    family: Family,
    denoiser: Callable[..., Any],
    scheduler: Any,
    conditions: dict[str, Tensor],
    generators: list[torch.Generator],
    shape: tuple[int, ...],
    options: SamplingOptions,
) -> Tensor:
    """Latents (B, *shape) float32. With guidance, conditions hold the empty prompts' rows first."""
    guidance = options.guidance
    scheduler.set_timesteps(options.steps, device=family.device)
    latents = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(family.device)
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    # Ancestral schedulers draw noise in each step: from the image's own generator.
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    chance = {"generator": generators} if takes_generator else {}
    for timestep in scheduler.timesteps:
        noisy = torch.cat([latents, latents]) if guidance > 1 else latents
        if hasattr(scheduler, "scale_model_input"):
            noisy = scheduler.scale_model_input(noisy, timestep)
        timesteps = timestep.to(torch.float32).expand(noisy.shape[0])
        prediction = family.call(denoiser, noisy, timesteps, conditions).float()
        if guidance > 1:
            empty, prompted = prediction.chunk(2)
            prediction = empty + guidance * (prompted - empty)
        latents = scheduler.step(prediction, timestep, latents, **chance, return_dict=False)[0]
    return latents


def _text(
    family: Family, prompts: Sequence[str], known: dict[str, dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Embeddings of the prompts, each distinct one encoded once and kept in known."""
    missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
    if len(known) + len(missing) > _KNOWN_PROMPTS:
        known.clear()
        missing = list(dict.fromkeys(prompts))
    if missing:
        rows = family.text(missing)
        for i, prompt in enumerate(missing):
            known[prompt] = {name: tensor[i] for name, tensor in rows.items()}
    names = known[prompts[0]]
    return {name: torch.stack([known[prompt][name] for prompt in prompts]) for name in names}


def _check(
    prompts: Sequence[str],
    seeds: Sequence[int],
    options: SamplingOptions,
    batch_size: int,
    step: int,
) -> None:
    steps, choice_temperature = options.steps, options.choice_temperature
    height, width = options.size
    if isinstance(prompts, str) or len(prompts) != len(seeds):
        raise ValueError(
            "prompts and seeds must be lists of one length, not "
            f"{prompts if isinstance(prompts, str) else len(prompts)!r} and {len(seeds)}"
        )
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps {steps} and batch_size {batch_size} must be at least 1")
    if choice_temperature is not None and choice_temperature < 0:
        raise ValueError(f"choice_temperature {choice_temperature} must be at least 0")
    if height % step or width % step:
        raise ValueError(f"height {height} and width {width} must be multiples of {step} pixels")
