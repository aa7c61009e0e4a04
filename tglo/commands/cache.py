"""The flags of `tglo cache`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import OmitArgPrefixes

from tglo.console.verbosity import show
from tglo.settings import ClipOptions, ManifestOptions, ModelOptions, Precision, ReferenceOptions

if TYPE_CHECKING:
    from tglo.train import TrainConfig


def cache(
    model: str,
    manifest: Path,
    output: Path,
    resolution: int | None = None,
    buckets: bool = True,
    batch_size: int = 8,
    device: str = "auto",
    dtype: Precision = "fp32",
    offload: Literal["none", "blocks"] = "none",
    vae_tiling: bool = False,
    max_bad_fraction: float = 0.01,
    markers: tuple[str, ...] = (),
    revision: str | None = None,
    lora: Path | None = None,
    loading: OmitArgPrefixes[ModelOptions] = ModelOptions(),
    reading: OmitArgPrefixes[ManifestOptions] = ManifestOptions(),
    clips: OmitArgPrefixes[ClipOptions] = ClipOptions(),
    reference: bool = False,
    draws: int = 8,
    stratified: bool = True,
    seed: int = 0,
    caption_dropout: float = 0.1,
    timesteps: str = "default",
    guidance: float | None = None,
    noise: Literal["fresh", "own"] = "fresh",
    draws_of: Literal["sample", "prompt"] = "sample",
    forward: OmitArgPrefixes[ReferenceOptions] = ReferenceOptions(),
    reference_output: Path | None = None,
) -> dict[str, Any]:
    """Encode a manifest's images and prompts once, so that training needs no VAE or text encoder.

    With --reference also run the untrained denoiser over all draws once, so that training needs no
    reference: set objective.reference = "cached" there. An interrupted run resumes. Any number of
    these commands on one folder share the work, also on several machines and with torchrun. After images
    or rows have changed, the same command encodes only what is new.

    tglo cache RUN.toml takes the run's values for all that its file says: model, manifest, output,
    markers, and whether and how its reference is cached. Flags after it win.

    Args:
        model: Pipeline folder or .safetensors file (leading ./ or /), or hub id.
        manifest: The manifest, also a folder of images with captions; scores are not needed yet.
        output: Cache folder.
        resolution: Side of a square image in pixels; by default the model's own, or that of the cache that is there.
        buckets: Keep aspect ratios, at about the same number of pixels; else crop to squares.
        batch_size: Images at once.
        device: cpu, cuda or auto.
        dtype: Precision of the encoders and of the embeddings that are stored.
        offload: One encoder at a time is loaded in any case. With blocks its layers wait in host memory, for a
            text encoder that is larger than a GPU.
        vae_tiling: Encode what is larger than a tile of the VAE in overlapping tiles: less memory, slightly
            other latents, and so another cache.
        max_bad_fraction: Share of unreadable images that may be left out.
        markers: Encode every prompt also behind each of these, for objective.name = csft:
            --markers "good image: " "bad image: ".
        revision: Hub revision of the model (branch, tag or commit).
        lora: LoRA that training starts from, as model.lora: prompts are embedded with its weights for text
            encoders, if it has any, and the reference has it.
        loading: How the model is found.
        reading: How the manifest is read.
        clips: Which clip of a video is encoded.
        reference: Store the reference's errors too.
        draws: Draws (timestep, noise) of each sample; training goes through them, one an epoch.
        stratified: Let a sample's draws cover the schedule evenly.
        seed: Seed of the draws: the training's seed, or its data.draw_seed.
        caption_dropout: Share of draws with the empty prompt, as data.caption_dropout.
        timesteps: How often each timestep is drawn, as data.timesteps.
        guidance: What a guidance-distilled model is told, as data.guidance.
        noise: A new noise in each draw, or the one that each image was made from, as data.noise.
        draws_of: Draws of each sample's own, or one for all samples of a prompt, as data.draws_of.
        forward: How the reference is computed.
        reference_output: Folder for the reference's errors; OUTPUT/reference by default.
    """
    from dataclasses import asdict

    from tglo.cache.drawer import DrawRule
    from tglo.cache.make import (
        build,
        build_reference,
        find_own_noise,
        is_made_of,
    )

    result: dict[str, Any] = {"output": output}
    own_noise = None
    if reference and noise == "own":
        own_noise = find_own_noise(
            model, manifest, revision=revision, loading=loading, reading=reading
        )

    def is_made() -> bool:
        return is_made_of(output, manifest, resolution, buckets, reading, clips, vae_tiling)

    complete = reference and not markers and is_made()
    if not complete:
        report = build(
            model,
            manifest,
            output,
            resolution=resolution,
            buckets=buckets,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            offload=offload,
            max_bad_fraction=max_bad_fraction,
            markers=markers,
            revision=revision,
            loading=loading,
            reading=reading,
            clips=clips,
            vae_tiling=vae_tiling,
            lora=lora,
        )
        show(str(report))
        result |= {"latents": asdict(report)}
        complete = report.complete
    if reference:
        errors = build_reference(
            model,
            output,
            reference_output or output / "reference",
            DrawRule(
                seed, caption_dropout, draws, stratified, timesteps, guidance, noise, draws_of
            ),
            forward,
            own_noise=own_noise,
            lora=lora,
            revision=revision,
            loading=loading,
            batch_size=batch_size,
            device=device,
        )
        show(str(errors))
        result |= {"reference": asdict(errors)}
        complete = errors.complete
    return result | {"complete": complete}


def flags_of(config: TrainConfig) -> dict[str, Any]:
    """Return the flags that a run's configuration answers."""
    from tglo.train.config import reference_mode

    model, data, objective, engine = config.model, config.data, config.objective, config.engine
    answered = {
        "model": model.path or None,
        "revision": model.revision,
        "lora": model.lora,
        "loading": model.loading,
        "manifest": data.manifest if data.manifest != Path() else None,
        "reading": ManifestOptions(
            data.prompt_column,
            data.image_column,
            data.score_column,
            data.root,
            data.score_pattern,
        ),
        "output": data.cache if data.cache != Path() else None,
        "markers": objective.markers,
        "device": engine.device,
        "reference": reference_mode(config) == "cached",
        "draws": data.draws or None,
        "stratified": data.stratified,
        "seed": config.seed if data.draw_seed is None else data.draw_seed,
        "caption_dropout": data.caption_dropout,
        "timesteps": data.timesteps,
        "guidance": data.guidance,
        "noise": data.noise,
        "draws_of": data.draws_of,
        "forward": ReferenceOptions(
            precision=engine.precision,
            weights="half" if engine.kind == "deepspeed" else "fp32",
            attention=model.attention,
            compile=engine.compile,
            channels_last=engine.channels_last,
            base_weights=model.base_weights,
            lora_reference=model.lora_reference,
        ),
        "reference_output": data.reference_cache,
    }
    return {name: value for name, value in answered.items() if value is not None}
