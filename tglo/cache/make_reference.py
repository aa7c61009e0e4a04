"""`tglo cache --reference`: the frozen reference's error of every draw, by the model folder itself."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch
from torch import Tensor

from tglo import models
from tglo.cache.drawer import Drawer, DrawRule
from tglo.cache.format import LAST
from tglo.cache.latents import LatentCache
from tglo.cache.reference import ReferenceReport, build_reference_errors
from tglo.data.errors import CacheError
from tglo.devices import DTYPES, process, process_device
from tglo.losses.tgo import prediction_error
from tglo.models import fingerprint
from tglo.models.execution.attention import set_backend
from tglo.models.execution.compiling import compile_denoiser
from tglo.models.execution.modes import set_channels_last
from tglo.models.families.base import Family
from tglo.settings import ReferenceOptions

log = logging.getLogger("tglo")


def build_reference(
    model: str,
    cache: Path,
    output: Path,
    rule: DrawRule,
    options: ReferenceOptions = ReferenceOptions(),
    *,
    revision: str | None = None,
    batch_size: int = 8,
    shard_size: int = 512,
    device: str = "auto",
    progress: bool = True,
) -> ReferenceReport:
    """Predict every draw of every sample in a latent cache once, and store the errors.

    options: how the training computes. Several processes (torchrun, or any that set RANK and
    WORLD_SIZE) share the shards; they need not communicate. Raises what LatentCache and
    build_reference_errors raise, and ValueError for no draws or options that do not fit the model.
    """
    if rule.draws < 1:
        raise ValueError(
            f"draws is {rule.draws}; a reference cache needs at least 1 of each sample"
        )
    place = process_device(device)
    latents = LatentCache(cache)
    dtype = DTYPES[options.precision]
    path = models.resolve(model, revision=revision)
    kind = models.family_of(path)
    reason = kind.unsupported.get(("engine.compile", options.compile))
    if reason is not None:
        raise ValueError(f"compile is {options.compile}, which does not fit {kind.name}: {reason}")
    family = models.load(path, device=place, encoders=False)
    latents.check(fingerprint.encoders(family))
    set_backend(family.denoiser, options.attention, dtype)
    set_channels_last(family.denoiser, options.channels_last)
    if options.compile != "none":
        compile_denoiser(family.denoiser, options.compile)
    drawer = Drawer(rule, latents, family, dtype)
    if options.weights == "half":
        family.to(dtype=dtype)
    rank, world_size = process()
    return build_reference_errors(
        latents,
        output,
        ReferenceForward(family, drawer, autocast=options.weights == "fp32"),
        reference_fingerprint(family, drawer, options.precision),
        draws=rule.draws,
        batch_size=batch_size,
        shard_size=shard_size,
        rank=rank,
        world_size=world_size,
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
