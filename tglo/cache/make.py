"""`tglo cache`: a manifest's latents and embeddings, by the encoders of a model folder; and with
--reference the frozen reference's error of every draw, by the model folder itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from tglo import models
from tglo.cache.build import CacheReport, build_cache, prompts_of
from tglo.cache.clips import check_clips
from tglo.cache.drawer import Drawer, DrawRule
from tglo.cache.format import check_format, choose_buckets
from tglo.cache.images import is_current
from tglo.cache.latents import LatentCache
from tglo.cache.own_noise import OwnNoise
from tglo.cache.reference_build import ReferenceReport, build_reference_errors, input_fingerprint
from tglo.cache.resolution import resolution_for
from tglo.cache.size import cache_size
from tglo.cache.sources import Sources
from tglo.data.decoding import need_pyav
from tglo.data.errors import CacheError
from tglo.data.manifest import Manifest, read_manifest
from tglo.data.rows_by_id import RowsById
from tglo.data.video import is_video
from tglo.devices import DTYPES, process, process_device
from tglo.files import DamagedFile
from tglo.losses.tgo import prediction_error
from tglo.models import fingerprint, quantization
from tglo.models.execution.attention import check_place, set_backend
from tglo.models.execution.compiling import compile_denoiser
from tglo.models.execution.modes import set_channels_last
from tglo.models.execution.offloading import encode_by_blocks
from tglo.models.families.base import Family
from tglo.settings import (
    COUNT,
    FRACTION,
    QUANTIZED,
    SEED,
    SIDE,
    ClipOptions,
    ManifestOptions,
    ModelOptions,
    Offload,
    ReferenceOptions,
    check_limits,
)

log = logging.getLogger("tglo")


def is_made_of(
    cache: Path,
    manifest: Path,
    resolution: int | None = None,
    buckets: bool = True,
    reading: ManifestOptions = ManifestOptions(),
    clips: ClipOptions = ClipOptions(),
    vae_tiling: bool = False,
) -> bool:
    """Return whether `cache` is a complete cache of this manifest and its images at this resolution (if one
    is given), so that it need not be built; False also for a damaged one. The images' files are looked at, not read.
    Raises CacheError, naming the field, for one of something else.
    """
    try:
        found = LatentCache(cache)
    except (CacheError, DamagedFile):
        return False
    rows = _rows(manifest, reading)
    asked = {} if resolution is None else {"resolution": str(resolution)}
    if not found.has_digests:
        found.check({**asked, "samples": rows.identity})
        return True
    found.check(asked)
    if not buckets and " " in found.fingerprint["buckets"]:
        raise CacheError(
            f"the cache {cache} has buckets of {found.fingerprint['buckets']}, not one"
        )
    if vae_tiling != ("vae_tiling" in found.fingerprint):
        there, here = ("without", "in") if vae_tiling else ("in", "without")
        raise CacheError(
            f"the cache {cache} was encoded {there} tiles and is asked for {here}: give --vae-tiling as then, or "
            "another folder"
        )
    check_clips(found, clips)
    return found.rows == rows.identity and _is_current(found, rows)


def _is_current(cache: LatentCache, rows: Manifest) -> bool:
    by_id, sources = RowsById(rows.distinct()), Sources(rows)
    for shard in cache.records():
        images = {key: by_id[key].image for key in shard.record["keys"] if key in by_id}
        if not is_current([*images], shard, images, sources):
            return False
    return True


def build(
    model: str,
    manifest: Path,
    output: Path,
    *,
    resolution: int | None = None,
    buckets: bool = True,
    batch_size: int = 8,
    device: str = "auto",
    dtype: str = "fp32",
    offload: Offload = "none",
    max_bad_fraction: float = 0.01,
    markers: Sequence[str] = (),
    revision: str | None = None,
    loading: ModelOptions = ModelOptions(),
    reading: ManifestOptions = ManifestOptions(),
    clips: ClipOptions = ClipOptions(),
    vae_tiling: bool = False,
    progress: bool = True,
    lora: Path | None = None,
) -> CacheReport:
    """Read the manifest, load the model, encode; see `tglo.cache.build.build_cache`.

    resolution: by default that of the cache in `output`, or the model's own.
    Several processes on one folder, of any machines, share the shards; they need not communicate.
    """
    rows = _rows(manifest, reading)
    rank, world_size = process()
    check_limits(
        {"resolution": resolution, "batch_size": batch_size, "max_bad_fraction": max_bad_fraction},
        {"resolution": SIDE, "batch_size": COUNT, "max_bad_fraction": FRACTION},
    )
    if any(map(is_video, rows.images())):
        if _kind(model, revision, loading).default_frames is not None:
            need_pyav()
    family = models.load(
        model,
        dtype=DTYPES[dtype],
        device=process_device(device),
        revision=revision,
        denoiser=False,
        options=loading,
    )
    if lora is not None:
        family.use_text_lora(family.read_lora(lora))
    if vae_tiling:
        family.encode_in_tiles()
    if offload == "blocks":
        encode_by_blocks(family)
    check_format(output)
    if resolution is None:
        resolution = resolution_for(family, output)
    prompts = prompts_of(rows, markers)
    clip = clips_of(family, clips)
    sizes = choose_buckets(family, resolution, buckets, () if clip is None else clip.frames)
    for *frames, height, width in sizes:
        family.latent_shape(height, width, *frames)  # raises for what the model cannot make
    ids = {*rows.sample_ids().tolist()}
    predicted = cache_size(family, output, [*prompts.values()], prompts, ids, sizes)
    log.info("%s", predicted)
    predicted.check(output)
    report = build_cache(
        rows,
        output,
        family,
        resolution=resolution,
        buckets=buckets,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        max_bad_fraction=max_bad_fraction,
        markers=markers,
        clips=clip,
        vae_tiling=vae_tiling,
        progress=progress,
    )
    family.prompts.report()
    return report


def _kind(model: str, revision: str | None, loading: ModelOptions) -> type[Family]:
    return models.family_of(models.resolve(model, revision=revision, options=loading))


def clips_of(family: type[Family] | Family, clips: ClipOptions) -> ClipOptions | None:
    """Return the clips of videos for a family, None for one of images. ValueError if that has been given some."""
    frames, rate = family.default_frames, family.frame_rate
    if frames is not None and rate is not None:
        return clips.resolved(frames, rate)
    if clips != ClipOptions():
        raise ValueError(
            f"frames {list(clips.frames)}, frame_rate {clips.frame_rate}, source_rate {clips.source_rate} and "
            f"clip {clips.clip} are of videos, and {family.name} makes images; leave them out"
        )
    return None


def _rows(manifest: Path, reading: ManifestOptions) -> Manifest:
    return read_manifest(manifest, **asdict(reading), require_scores=False)


def find_own_noise(
    model: str,
    manifest: Path,
    *,
    revision: str | None = None,
    loading: ModelOptions = ModelOptions(),
    reading: ManifestOptions,
) -> OwnNoise:
    """Read the noise that a manifest's images were made from, for draws of this model. Loads none; raises
    ManifestError where it is not known, ValueError for a model that cannot use it.
    """
    kind = _kind(model, revision, loading)
    reason = kind.unsupported.get(("data.noise", "own"))
    if reason is not None:
        raise ValueError(f"noise is own, which does not fit {kind.name}: {reason}")
    rows = _rows(manifest, reading)
    own_noise = OwnNoise(rows, rows.path)
    own_noise.check_family(kind.name)
    return own_noise


def build_reference(
    model: str,
    cache: Path,
    output: Path,
    rule: DrawRule,
    options: ReferenceOptions = ReferenceOptions(),
    *,
    own_noise: OwnNoise | None = None,
    lora: Path | None = None,
    revision: str | None = None,
    loading: ModelOptions = ModelOptions(),
    batch_size: int = 8,
    shard_size: int = 512,
    device: str = "auto",
    progress: bool = True,
) -> ReferenceReport:
    """Predict every draw of every sample in a latent cache once, and store the errors.

    options: how the training computes. lora: what it starts from. own_noise: see `find_own_noise`, for a
    rule whose noise is "own". Several processes on one folder, of any machines, share the shards; they need
    not communicate. Raises what LatentCache and
    build_reference_errors raise, and ValueError for no draws or options that do not fit the model.
    """
    if rule.draws < 1:
        raise ValueError(
            f"draws is {rule.draws}; a reference cache needs at least 1 of each sample"
        )
    counted = ("draws", "seed", "caption_dropout")
    check_limits(
        {**{name: getattr(rule, name) for name in counted}, "batch_size": batch_size},
        {"draws": COUNT, "seed": SEED, "caption_dropout": FRACTION, "batch_size": COUNT},
    )
    place = process_device(device)
    check_place(options.attention, place)
    latents = LatentCache(cache)
    if own_noise is not None:
        own_noise.check_sizes(latents, latents.sample_ids().tolist())
    dtype = DTYPES[options.precision]
    path = models.resolve(model, revision=revision, options=loading)
    kind = models.family_of(path)
    reason = kind.unsupported.get(("engine.compile", options.compile))
    if reason is not None:
        raise ValueError(f"compile is {options.compile}, which does not fit {kind.name}: {reason}")
    quantization.require(options.base_weights)
    like_half = options.base_weights != "default"
    dtype_of_weights = dtype if like_half else torch.float32
    family = models.load(path, dtype=dtype_of_weights, encoders=False, options=loading)
    if options.base_weights in QUANTIZED:
        family.quantize(options.base_weights, place)
    family.to(place)
    found = None if lora is None else family.read_lora(lora)
    if found is not None:
        family.use_text_lora(found)
    latents.check_encoders(fingerprint.encoders(family))
    set_backend(family.denoiser, options.attention, dtype)
    set_channels_last(family.denoiser, options.channels_last)
    digest = {}
    if found is not None and options.lora_reference == "start":
        family.start_from_lora(found)
        digest = {"lora": fingerprint.file_digest(found.path)}
    if options.compile != "none":
        compile_denoiser(family.denoiser, options.compile)
    drawer = Drawer(rule, latents, family, dtype, own_noise)
    if options.weights == "half":
        quantization.convert_weights(family.denoiser, dtype)
    rank, world_size = process()
    family.denoiser.eval().requires_grad_(False)
    half = options.weights == "fp32" and dtype != torch.float32

    @torch.no_grad()
    def errors_of(ids: list[int], draw_index: Tensor) -> Tensor:
        draw = drawer.draw(drawer.read(ids, draw_index))
        with torch.autocast(place.type, dtype, enabled=half):
            answer = family.predict(family.denoiser, draw)
        if family.answers_with_error:
            return answer.double()
        return prediction_error(answer, draw.target)

    return build_reference_errors(
        latents,
        output,
        errors_of,
        # All that every error depends on, save the rounding of the machine.
        {
            **fingerprint.denoiser(family),
            **input_fingerprint(latents),
            **drawer.fingerprint(),
            "precision": options.precision,
            **quantization.fingerprint(options.base_weights),
            **digest,
        },
        draws=rule.draws,
        own_noise=own_noise,
        batch_size=batch_size,
        shard_size=shard_size,
        rank=rank,
        world_size=world_size,
        progress=progress,
    )
