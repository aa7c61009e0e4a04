"""The flags of `tglo cache`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tglo.settings import Precision


def cache(
    model: str,
    manifest: Path,
    output: Path,
    resolution: int = 1024,
    buckets: bool = True,
    batch_size: int = 8,
    device: str = "auto",
    dtype: Precision = "fp32",
    max_bad_fraction: float = 0.01,
    markers: tuple[str, ...] = (),
    reference: bool = False,
    draws: int = 8,
    stratified: bool = True,
    seed: int = 0,
    caption_dropout: float = 0.1,
    precision: Precision = "fp32",
    weights: Literal["fp32", "half"] = "fp32",
    attention: str = "default",
    compile: Literal["none", "blocks", "whole"] = "none",
    reference_output: Path | None = None,
) -> None:
    """Encode a manifest's images and prompts once, so that training needs no VAE or text encoder.

    With --reference also run the untrained denoiser over all draws once, so that training needs no
    reference: set objective.reference = "cached" there. An interrupted run goes on; with torchrun
    the processes share the work.

    Args:
        model: Pipeline folder (leading ./ or /) or hub id.
        manifest: The manifest; scores are not needed yet.
        output: Cache folder.
        resolution: Side of a square image in pixels.
        buckets: Keep aspect ratios, at about the same number of pixels; else crop to squares.
        batch_size: Images at once.
        device: cpu, cuda or auto.
        dtype: Precision of the encoders.
        max_bad_fraction: Share of unreadable images that may be left out.
        markers: Encode every prompt also behind each of these, for objective.name = csft:
            --markers "good image: " "bad image: ".
        reference: Store the reference's errors too.
        draws: Draws (timestep, noise) of each sample; training goes through them, one an epoch.
        stratified: Let a sample's draws cover the schedule evenly.
        seed: Seed of the draws: the training's seed, or its data.draw_seed.
        caption_dropout: Share of draws with the empty prompt, as data.caption_dropout.
        precision: Precision of the reference, as engine.precision.
        weights: fp32 as one process trains (autocast), half as DeepSpeed does.
        attention: Attention backend of the reference, as model.attention.
        compile: Compile the reference's forward, as engine.compile.
        reference_output: Folder for the reference's errors; OUTPUT/reference by default.
    """
    from tglo.cache.drawer import DrawRule
    from tglo.cache.make import build, is_made_of
    from tglo.cache.make_reference import build_reference, wait_for_latents

    if not reference or markers or not is_made_of(output, manifest, resolution, buckets):
        print(
            build(
                model,
                manifest,
                output,
                resolution=resolution,
                buckets=buckets,
                batch_size=batch_size,
                device=device,
                dtype=dtype,
                max_bad_fraction=max_bad_fraction,
                markers=markers,
            )
        )
    if reference:
        wait_for_latents(output)
        print(
            build_reference(
                model,
                output,
                reference_output or output / "reference",
                DrawRule(seed, caption_dropout, draws, stratified),
                precision=precision,
                weights=weights,
                attention=attention,
                compile=compile,
                batch_size=batch_size,
                device=device,
            )
        )
