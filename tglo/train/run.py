"""From a configuration to a run that is ready; what can be checked without a model comes first."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tglo import models
from tglo.cache.drawer import Drawer, DrawRule
from tglo.cache.latents import LatentCache
from tglo.cache.own_noise import OwnNoise
from tglo.cache.reference import ReferenceErrors
from tglo.coded import numbered
from tglo.data.manifest import Manifest, read_manifest
from tglo.data.sampler import BatchSampler
from tglo.devices import DTYPES
from tglo.models import fingerprint, lora, quantization
from tglo.models.execution import attention
from tglo.models.execution.compiling import compile_denoiser
from tglo.models.execution.modes import frozen_copy, set_channels_last
from tglo.models.families.base import Family
from tglo.models.lora_reading import Found
from tglo.models.quantization import convert_weights, floating_dtype, floating_dtypes
from tglo.objectives import OBJECTIVES, Objective, Settings
from tglo.settings import QUANTIZED
from tglo.threshold.frozen import Threshold
from tglo.threshold.summary import Summary, describe
from tglo.train import auto_checkpointing, processes, starting_lora
from tglo.train.base_model import BaseModel
from tglo.train.batches import Batches, Samples
from tglo.train.checkpoint import Checkpoints
from tglo.train.config import TrainConfig, reference_mode
from tglo.train.config_checks import check_family
from tglo.train.earlier import CHECKPOINTS
from tglo.train.ema import Ema
from tglo.train.engines.choose import Engine, make_engine, wants_deepspeed
from tglo.train.recipes import recipe_line
from tglo.train.reference_policy import Reference, keep_products_in
from tglo.train.same_data import digests, order_of
from tglo.train.same_ranks import refuse_weights_apart
from tglo.train.samples import choose, threshold_of
from tglo.train.temperature import Temperature
from tglo.train.validation import check_validation

log = logging.getLogger("tglo")


@dataclass(eq=False)
class Run:
    """Everything that the training loop works with."""

    config: TrainConfig
    family: Family
    engine: Engine
    reference: Reference | None
    objective: Objective
    batches: Batches
    temperature: Temperature
    ema: Ema | None
    checkpoints: Checkpoints
    threshold: Threshold
    digests: dict[str, Any]
    """Of the data, see `same_data`."""
    base: BaseModel
    order: str
    """Digest of what decides which samples a step has."""
    steps_per_epoch: int
    noise_floor: float | None = None
    """The root mean square of r in the first step with a cached reference, where it should be 0."""

    def epoch(self, step: int) -> float:
        """Return how many epochs `step` updates are."""
        return (step + self.batches.shift) / self.steps_per_epoch


class _Data:
    """All of a run that is known without a model."""

    def __init__(self, config: TrainConfig) -> None:
        data, optimizer = config.data, config.optimizer
        self.manifest = read_manifest(
            data.manifest,
            prompt_column=data.prompt_column,
            image_column=data.image_column,
            score_column=data.score_column,
            root=data.root,
            score_pattern=data.score_pattern,
        )
        self.threshold = threshold_of(config, self.manifest)
        self.cache = LatentCache(data.cache)
        self.objective = _objective(config, self.threshold)
        self.samples = choose(config, self.objective, self.manifest, self.cache, self.threshold)
        self.own_noise = _own_noise(config, self.manifest, self.cache, self.samples)
        self.errors, self.rule = _draws(config, self.cache, self.samples, self.own_noise)
        units = self.samples.units
        buckets = self.cache.bucket_codes(self.samples.ids[units[:, 0]])
        self.sampler = BatchSampler(
            buckets,
            micro_batch=optimizer.micro_batch // units.shape[1],
            accumulation=optimizer.accumulation,
            world_size=processes.world_size(),
            seed=config.seed,
            unit=config.objective.unit,
        )
        batch = (self.sampler.micro_batch, optimizer.accumulation, processes.world_size())
        shuffled = self.samples.ids[units.reshape(-1)]
        self.order = order_of(shuffled, buckets, batch, config.seed)
        del shuffled, buckets
        self.digests = digests(self.manifest, self.threshold, self.cache, self.samples)
        if self.own_noise is not None:
            self.digests["noise"] = self.own_noise.digest()
        self.digests |= starting_lora.digest(config)


def _refuse_ranks_apart(data: _Data) -> None:
    """Raise ValueError unless every rank has read the same: each reads its own disk."""
    read = processes.gather((data.order, data.digests))
    apart = [rank for rank, theirs in enumerate(read) if theirs != read[0]]
    if apart:
        first, theirs = read[0][1], read[apart[0]][1]
        what = ", ".join(sorted(name for name in first if theirs.get(name) != first[name]))
        raise ValueError(
            f"ranks {apart} have read another manifest, threshold or cache than rank 0 (other: "
            f"{what or 'order'}): copy the same files to every machine, or give a folder that all of them share"
        )


def prepare(config: TrainConfig, device: torch.device) -> Run:
    """Read the data, load the model, wrap it. Errors are raised on every rank."""
    data = processes.together(lambda: _Data(config))
    _refuse_ranks_apart(data)
    threshold, objective, mode = data.threshold, data.objective, reference_mode(config)
    if processes.rank() == 0:
        scores, prompts = data.manifest.scores(), data.manifest.prompt_codes()
        log.info("%s", recipe_line(config))
        log.info("%s", _summary(config, objective, threshold, scores, prompts))
        data.sampler.report(config.optimizer.steps)

    family, found = processes.together(lambda: _family(config, device, data))
    refuse_weights_apart(family.denoiser)
    base = BaseModel(config, family)
    bare = found is None or config.model.lora_reference == "base"
    copy = frozen_copy(family.denoiser) if mode == "copy" and bare else None
    model = config.model
    if found is not None:
        config = starting_lora.start(config, family, found)
        copy = frozen_copy(family.denoiser) if mode == "copy" and not bare else copy
    elif model.train == "lora":
        family.add_lora(
            model.lora_rank, model.lora_alpha, dropout=model.lora_dropout, seed=config.seed
        )
    else:
        family.denoiser.requires_grad_(True)
    family.denoiser.train()
    auto_checkpointing.set_checkpointing(
        config, family, numbered(data.cache.bucket_codes(data.samples.ids))[0]
    )
    engine = make_engine(config, family.denoiser, device)
    reference = _reference(mode, family, engine, copy)
    if config.engine.compile != "none":
        for module in [engine.module] if copy is None else [engine.module, copy]:
            compile_denoiser(module, config.engine.compile, cuda_graphs=config.engine.cuda_graphs)
    drawer = processes.together(lambda: _drawer(data, family, engine.dtype))
    return Run(
        config=config,
        family=family,
        engine=engine,
        reference=reference,
        objective=objective,
        batches=Batches(config, data.samples, drawer, data.sampler, processes.rank(), data.errors),
        temperature=Temperature(
            config.objective.temperature,
            family.temperature(objective.default_temperature),
            config.optimizer.steps,
        ),
        ema=Ema(config.optimizer.ema_decay, engine) if config.optimizer.ema_decay else None,
        checkpoints=Checkpoints(config.output.folder / CHECKPOINTS, config.output.keep),
        threshold=threshold,
        digests=data.digests,
        base=base,
        order=data.order,
        steps_per_epoch=data.sampler.steps_per_epoch,
    )


def _reference(
    mode: str, family: Family, engine: Engine, copy: nn.Module | None
) -> Reference | None:
    """Make the reference policy of that mode, in the precision that the engine computes in."""
    if copy is not None:
        dtype = floating_dtype(engine.module)
        if floating_dtypes(copy) != floating_dtypes(
            engine.module
        ):  # DeepSpeed has converted the policy
            convert_weights(copy, dtype)
        elif engine.dtype != dtype:  # autocast
            keep_products_in(copy, engine.dtype)
        return Reference(family.predict, copy)
    if mode == "adapter-off":
        switch = lora.reference_on if lora.has_reference(family.denoiser) else lora.adapters_off
        return Reference(family.predict, engine.module, partial(switch, family.denoiser))
    return None


def _summary(
    config: TrainConfig,
    objective: Objective,
    threshold: Threshold,
    scores: NDArray[np.float64],
    prompts: Sequence[str],
) -> Summary:
    chosen = config.objective
    return describe(
        scores,
        threshold,
        float(chosen.confidence),
        prompts,
        normalised=objective.weighs and chosen.weight_normalisation,
        balance=objective.weighs and chosen.balance,
    )


def _objective(config: TrainConfig, threshold: Threshold) -> Objective:
    """Make the objective with the run's constants; its means go over the processes."""
    chosen = config.objective
    settings = Settings(
        beta=None if isinstance(chosen.beta, str) else chosen.beta,
        confidence=threshold.confidence(float(chosen.confidence)),
        backend=chosen.backend,
        score_scale=threshold.scale,
    )
    return OBJECTIVES[chosen.name](settings, processes.mean, chosen.constants)


def _own_noise(
    config: TrainConfig, manifest: Manifest, cache: LatentCache, samples: Samples
) -> OwnNoise | None:
    """Find the noise that the samples were made from, where they are trained with it."""
    if config.data.noise == "fresh":
        return None
    check_family(config, models.family_of(_path(config)))
    rows = manifest.select(np.flatnonzero(np.isin(manifest.sample_ids(), samples.ids)))
    noise = OwnNoise(rows, manifest.path)
    noise.check_sizes(cache, samples.ids)
    return noise


def _draws(
    config: TrainConfig, cache: LatentCache, samples: Samples, own_noise: OwnNoise | None
) -> tuple[ReferenceErrors | None, DrawRule]:
    """Read the errors where they are cached, checked as far as it goes without a model; and the rule
    of the draws.
    """
    data, errors = config.data, None
    stratified = data.stratified
    if reference_mode(config) == "cached":
        errors = ReferenceErrors(data.reference_cache or data.cache / "reference")
        if stratified is None:
            stratified = errors.fingerprint.get("stratified") == "true"
    rule = DrawRule(
        seed=config.seed if data.draw_seed is None else data.draw_seed,
        caption_dropout=data.caption_dropout,
        timesteps=data.timesteps,
        guidance=data.guidance,
        noise=data.noise,
        draws_of=data.draws_of,
        draws=data.draws or (0 if errors is None else errors.draws),
        stratified=bool(stratified),
    )
    if errors is None:
        return None, rule
    base = quantization.fingerprint(config.model.base_weights)
    # What was made with other choices than the defaults says so; caches made before there was a choice do not.
    choices = {name: "default" for name in ("timesteps", "guidance", "base_weights")}
    choices |= {"noise": "fresh", "draws_of": "sample", "lora": "none"}
    defaults = {name: choices[name] for name in choices.keys() & errors.fingerprint.keys()}
    lora = starting_lora.reference_fingerprint(config)
    precision = {"precision": config.engine.precision}
    errors.check({**defaults, **rule.fingerprint(), **base, **lora, **precision})
    errors.check_inputs(cache, samples.ids, own_noise)
    return errors, rule


def _path(config: TrainConfig) -> Path:
    model = config.model
    return models.resolve(model.path, revision=model.revision, options=model.loading)


def _drawer(data: _Data, family: Family, dtype: torch.dtype) -> Drawer:
    drawer = Drawer(data.rule, data.cache, family, dtype, data.own_noise)
    if data.errors is not None:
        data.errors.check(drawer.fingerprint())
    return drawer


def _family(config: TrainConfig, device: torch.device, data: _Data) -> tuple[Family, Found | None]:
    """Load the model and the LoRA that training starts from, check that cache and errors are theirs, and arrange
    what policy and reference share, on their device: attention and memory layout.
    """
    model, cache, errors = config.model, data.cache, data.errors
    encoders = bool(config.output.validation_prompts)
    path = _path(config)
    kind = models.family_of(path)
    check_family(config, kind)
    if data.own_noise is not None:
        data.own_noise.check_family(kind.name)
    half = model.base_weights != "default"
    family = models.load(
        path,
        dtype=DTYPES[config.engine.precision] if half else torch.float32,
        encoders=encoders,
        options=model.loading,
    )
    if encoders:  # what cannot be sampled is told now, not after hours
        check_validation(config.output, family)
    family.set_timesteps(config.data.timesteps)
    family.set_loss_backend(config.objective.backend)
    found = starting_lora.open_lora(config, family)
    cache.check_encoders(fingerprint.encoders(family))
    if errors is not None:
        errors.check(fingerprint.denoiser(family))
    if model.base_weights in QUANTIZED:
        family.quantize(model.base_weights, device)
    family.to(device)
    attention.set_backend(family.denoiser, model.attention, DTYPES[config.engine.precision])
    # DeepSpeed flattens weights and takes contiguous ones only.
    channels_last = "off" if wants_deepspeed(config) else config.engine.channels_last
    set_channels_last(family.denoiser, channels_last)
    if config.output.export and processes.rank() == 0:
        family.check_export(config.output.folder / "export", whole=model.train != "lora")
    return family, found
