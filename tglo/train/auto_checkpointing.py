"""Gradient checkpointing by measurement: the first mode whose step fits in the GPU's memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch

from tglo.data.buckets import Bucket
from tglo.devices import DTYPES
from tglo.models.execution.checkpointing import MODES, set_mode
from tglo.models.families.base import Family
from tglo.train import processes
from tglo.train.config import TrainConfig

log = logging.getLogger("tglo")
# What a step needs beyond the measured one: fragmentation, the loss, communication buffers.
_MARGIN = 0.92
_STATE_BYTES = {"adamw": 8, "adamw8bit": 2, "adafactor": 0.1}


def set_checkpointing(config: TrainConfig, family: Family, buckets: Sequence[Bucket]) -> None:
    """Set `model.gradient_checkpointing`; `auto` measures first. Collective.

    buckets: (height, width) in pixels of the run's samples, of videos (frames, height, width), of which the
    largest is measured.
    """
    mode = config.model.gradient_checkpointing
    if mode == "auto" and family.device.type != "cuda":
        log.info("gradient checkpointing auto: none on %s", family.device.type)
        mode = "none"
    if mode != "auto":
        set_mode(family.denoiser, mode)
        return
    size = max(buckets, key=math.prod)
    total = torch.cuda.get_device_properties(family.device).total_memory
    later = _later_bytes(config, family)
    limit = int(_MARGIN * total) - later
    # A compiled block is one operator: selective keeps nothing inside it, and less is measured here.
    modes = [m for m in MODES if m != "selective" or config.engine.compile != "blocks"]
    for mode in modes:
        set_mode(family.denoiser, mode)
        peak = processes.together(lambda: _peak(config, family, size))
        fits = all(processes.gather(peak is not None and peak <= limit))
        log.info(
            "gradient checkpointing %s: %s, and %.1f GiB for the optimizer, of %.1f GiB, at %d "
            "of %s",
            mode,
            "out of memory" if peak is None else f"a peak of {peak / 2**30:.1f} GiB",
            later / 2**30,
            total / 2**30,
            config.optimizer.micro_batch,
            " x ".join(map(str, size)),
        )
        if fits:
            log.info("gradient checkpointing auto: %s", mode)
            return
    log.warning(
        "gradient checkpointing auto: even full may not fit; training with full. If it runs out of "
        "memory, lower optimizer.micro_batch, which is %d",
        config.optimizer.micro_batch,
    )


def _later_bytes(config: TrainConfig, family: Family) -> int:
    """Bytes that a step has and the measured one has not: the optimizer's state, the average."""
    trained = sum(p.numel() for p in family.denoiser.parameters() if p.requires_grad)
    state = 0 if config.engine.offload_optimizer else _STATE_BYTES[config.optimizer.name]
    average = 4 if config.optimizer.ema_decay else 0
    return int(trained * (state + average))


def _peak(config: TrainConfig, family: Family, size: Bucket) -> int | None:
    """Return the peak bytes of one forward and backward, uncompiled; None if it ran out of memory."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(family.device)
    try:
        trial(family, config.optimizer.micro_batch, size, DTYPES[config.engine.precision])
        torch.cuda.synchronize(family.device)
        return torch.cuda.max_memory_allocated(family.device)
    except torch.OutOfMemoryError:
        return None
    finally:
        torch.cuda.empty_cache()


def trial(family: Family, batch: int, size: Bucket, dtype: torch.dtype) -> None:
    """One forward and backward on random inputs, at `size` (height, width) in pixels, of videos (frames,
    height, width).

    Leaves no gradient and no trace in the random generators.
    """
    device, (*frames, height, width) = family.device, size
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # dropout
        draw = family.example(batch, height, width, *frames)
        try:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                answer = family.predict(family.denoiser, draw)
            answer.float().square().mean().backward()
        finally:
            family.denoiser.zero_grad(set_to_none=True)
