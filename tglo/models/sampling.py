"""Images from a model with the scheduler of its folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from tglo.console.verbosity import bar_hidden
from tglo.data import ragged
from tglo.data.video import Video
from tglo.models.execution.modes import evaluating
from tglo.models.families.model import Denoiser, Model, Tensors, image_sizes
from tglo.models.finite import require_finite
from tglo.models.samplers import Predict
from tglo.models.tiling import check_tiling, tiled
from tglo.noise.starting import generators_of
from tglo.settings import SamplingOptions

log = logging.getLogger(__name__)
Check = Callable[[Tensor, str], None]
"""(values (B, ...), their name): raises FloatingPointError unless all are finite."""
_KNOWN_PROMPTS = 512  # embeddings kept at a time; SDXL's take 0.3 MB each in half precision


@torch.no_grad()
def generate(
    model: Model,
    prompts: Sequence[str],
    seeds: Sequence[int],
    options: SamplingOptions = SamplingOptions(),
    *,
    batch_size: int = 8,
    denoiser: Denoiser | None = None,
    progress: bool = False,
) -> list[Any]:
    """Sample one RGB image per prompt and seed, as the family's pipeline makes it; of a model of videos one
    tglo.data.video.Video.

    Every image has a CPU generator of its own, so it depends on its prompt and seed and not on the
    batch it is made in (but for float rounding). A guidance of 1 or less (the family's `least_guidance`)
    runs without guidance.
    choice_temperature, for masked models alone, says how much chance there is in which tokens a step
    fixes: it holds for the first step and falls to 0 at the last. 0 fixes the surest; the default is the
    pipelines', 2. denoiser: sample another module, such as an average or a reference; its train or
    eval mode is left as it was. Raises ValueError for lists of different lengths, sizes the VAE
    cannot make, and a choice_temperature below 0 or for a model without tokens; FloatingPointError
    instead of an image that is not finite.
    """
    model.need_encoders()
    model.need_denoiser()
    if options.vae_tiling:
        check_tiling(model.vae)
    denoiser = model.denoiser if denoiser is None else denoiser
    options = options.resolved(model.default_size, model.default_frames)
    _check(prompts, seeds, options, batch_size, model.size_step)
    shape = model.latent_shape(*options.size, options.frames)
    scheduler = type(model.scheduler).from_config(model.scheduler.config)
    known: dict[str, Tensors] = {}
    images: list[Any] = []
    bar = tqdm(total=len(prompts), desc="images", disable=bar_hidden(progress))
    with evaluating(denoiser), bar:
        off = options.guidance <= model.least_guidance or model.guidance_in_model
        guidance = None if off else options.guidance
        if options.guidance > model.least_guidance and not model.has_guidance:
            log.warning(
                "%s is distilled without guidance: %g has no effect; give 1, or take the base model",
                model.path, options.guidance,
            )  # fmt: skip
        empty = None if guidance is None else model.unconditional()
        for start in range(0, len(prompts), batch_size):
            batch = slice(start, start + batch_size)
            count = len(prompts[batch])
            text = _text(model, prompts[batch], known)
            if empty is not None:
                text = ragged.stack([*ragged.rows_of(empty) * count, *ragged.rows_of(text)])
            rows = count if empty is None else 2 * count
            conditions = model.conditions(text, image_sizes(rows, *options.size, model.device))
            if model.guidance_in_model:
                conditions["guidance"] = torch.full((rows,), options.guidance, device=model.device)
            check = partial(require_finite, model, denoiser)
            check = partial(check, prompts=prompts[batch], seeds=seeds[batch])
            predict = _guided(model, denoiser, conditions, guidance, check)
            scheduler.set_timesteps(device=model.device, **model.step_options(options))
            generators = generators_of(seeds[batch])
            latents = type(model).sampler(predict, scheduler, generators, shape, model.device)
            check(latents, "the latents")
            with tiled(model.vae, options.vae_tiling):
                pixels = model.codec.decode(model.vae, latents)
            check(pixels, "the pixels")
            rate = model.frame_rate
            images += to_images(pixels) if rate is None else to_videos(pixels, rate)
            bar.update(count)
    return images


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Turn (B, 3, H, W) float in [-1, 1] into B RGB images."""
    levels = (pixels * 0.5 + 0.5).clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
    return [Image.fromarray(array) for array in levels.permute(0, 2, 3, 1).contiguous().numpy()]


def to_videos(pixels: Tensor, rate: float) -> list[Video]:
    """Turn (B, 3, F, H, W) float in [-1, 1] into B videos. rate: frames per second."""
    return [Video(to_images(frames.transpose(0, 1)), rate) for frames in pixels]


def _guided(
    model: Model, denoiser: Denoiser, conditions: Tensors, guidance: float | None, check: Check
) -> Predict:
    """Return the denoiser as a guided prediction; the rows of conditions of the empty prompts come first.

    guidance: None for one pass without them. check: of logits, because tokens are finite in any case.
    """

    def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
        rows = noisy if guidance is None else torch.cat([noisy, noisy])
        timesteps = timestep.to(torch.float32).expand(len(rows))
        prediction = model.call(denoiser, rows, timesteps, conditions).float()
        if guidance is not None:
            empty, prompted = prediction.chunk(2)
            prediction = model.guide(empty, prompted, guidance)
        if not noisy.is_floating_point():
            check(prediction.amax(1), "the logits")  # one of -inf is a token that is ruled out
        return prediction

    return predict


def _text(model: Model, prompts: Sequence[str], known: dict[str, Tensors]) -> Tensors:
    """Return embeddings of the prompts, each distinct one encoded once and kept in known."""
    missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
    if len(known) + len(missing) > _KNOWN_PROMPTS:
        known.clear()
        missing = list(dict.fromkeys(prompts))
    if missing:
        rows = model.text(missing)
        known.update(zip(missing, ragged.rows_of(rows), strict=True))
    return ragged.stack([known[prompt] for prompt in prompts])


def _check(
    prompts: Sequence[str],
    seeds: Sequence[int],
    options: SamplingOptions,
    batch_size: int,
    step: int,
) -> None:
    steps, choice_temperature = options.steps, options.choice_temperature
    if isinstance(prompts, str) or len(prompts) != len(seeds):
        raise ValueError(
            "prompts and seeds must be lists of one length, not "
            f"{prompts if isinstance(prompts, str) else len(prompts)!r} and {len(seeds)}"
        )
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps {steps} and batch_size {batch_size} must be at least 1")
    if choice_temperature is not None and choice_temperature < 0:
        raise ValueError(f"choice_temperature {choice_temperature} must be at least 0")
    options.check_sides(step)
