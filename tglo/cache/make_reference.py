"""`tglo cache --reference`: the frozen reference's error of every draw, by the model folder itself."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from tglo import models
from tglo.cache.drawer import Drawer, DrawRule
from tglo.cache.format import LAST
from tglo.cache.latents import LatentCache
from tglo.cache.reference import ReferenceReport, build_reference_errors
from tglo.data.errors import CacheError
from tglo.devices import DTYPES, process_device
from tglo.losses.tgo import prediction_error
from tglo.models import fingerprint
from tglo.models.execution.attention import set_backend
from tglo.models.execution.compiling import compile_denoiser
from tglo.models.execution.modes import set_channels_last
from tglo.models.families.base import Family

log = logging.getLogger("tglo")


def build_reference(
    model: str,
    cache: Path,
    output: Path,
    rule: DrawRule,
    *,
    precision: str = "fp32",
    weights: str = "fp32",
    attention: str = "default",
    channels_last: Literal["auto", "on", "off"] = "auto",
    compile: Literal["none", "blocks", "whole"] = "none",
    batch_size: int = 8,
    shard_size: int = 512,
    device: str = "auto",
    progress: bool = True,
) -> ReferenceReport:
    """Predict every draw of every sample in a latent cache once, and store the errors.

    precision: fp32, bf16 or fp16, that of the training. weights: "fp32", as one process of plain
    PyTorch trains (autocast), or "half", as DeepSpeed does. attention, channels_last, compile: as in
    the training's configuration. Several processes (torchrun, or any that set RANK and WORLD_SIZE)
    share the shards; they need not communicate. Errors are those of LatentCache and
    build_reference_errors.
    """
    if rule.draws < 1:
        raise ValueError(
            f"draws is {rule.draws}; a reference cache needs at least 1 of each sample"
        )
    place = process_device(device)
    latents = LatentCache(cache)
    dtype = DTYPES[precision]
    kind = models.family_of(models.resolve(model))
    reason = kind.unsupported.get(("engine.compile", compile))
    if reason is not None:
        raise ValueError(f"compile is {compile}, which does not fit {kind.name}: {reason}")
    family = models.load(model, device=place, encoders=False)
    latents.check(fingerprint.encoders(family))
    set_backend(family.denoiser, attention, dtype)
    set_channels_last(family.denoiser, channels_last)
    if compile != "none":
        compile_denoiser(family.denoiser, compile)
    drawer = Drawer(rule, latents, family, dtype)
    if weights == "half":
        family.to(dtype=dtype)
    return build_reference_errors(
        latents,
        output,
        ReferenceForward(family, drawer, autocast=weights == "fp32"),
        reference_fingerprint(family, drawer, precision),
        draws=rule.draws,
        batch_size=batch_size,
        shard_size=shard_size,
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        progress=progress,
    )


def reference_fingerprint(family: Family, drawer: Drawer, precision: str) -> dict[str, str]:
    """Name everything that a cached error depends on, save the rounding of the machine."""
    return {
        **fingerprint.denoiser(family),
        **drawer.cache.content(),
        **drawer.fingerprint(),
        "precision": precision,
    }


class ReferenceForward:
    """Compute the denoiser's errors, (B,) float64, of samples of one bucket: a draw (its number,
    (B,) int64) of each.
    """

    def __init__(self, family: Family, drawer: Drawer, *, autocast: bool) -> None:
        self.family, self.drawer, self.autocast = family, drawer, autocast
        family.denoiser.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, ids: list[int], draw_index: Tensor) -> Tensor:
        draw = self.drawer.draw(self.drawer.read(ids, draw_index))
        half = self.autocast and self.drawer.dtype != torch.float32
        with torch.autocast(self.drawer.device.type, self.drawer.dtype, enabled=half):
            answer = self.family.predict(self.family.denoiser, draw)
        if self.family.answers_with_error:
            return answer.double()
        return prediction_error(answer, draw.target)


def wait_for_latents(cache: Path, *, poll: float = 1.0, patience: float = 1800.0) -> None:
    """Wait until other processes have finished their shards of the latent cache.

    CacheError when nothing in it has changed for `patience` seconds.
    """
    if not (cache / LAST).is_file():
        log.info("waiting for other processes to finish %s", cache)
    while not (cache / LAST).is_file():
        newest = cache.stat().st_mtime  # of the last file that was made or renamed in it
        if time.time() - newest > patience:
            raise CacheError(
                f"{cache} is not complete and has not changed for {patience:.0f} s: another process "
                "failed or was never started; run `tglo cache` again, it makes what is missing"
            )
        time.sleep(poll)
