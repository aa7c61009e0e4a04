"""Draws of cached samples: one timestep, noise, latent and caption each. Training and the reference
cache take them from here, so that a cached error belongs to the very prediction that is trained.

Draw k of a sample follows from (seed, sample id, k) alone: the latent is one sample of the VAE's
posterior, the timestep is uniform (or stratified over the draws), the caption is dropped at a given
rate, and noise and target come from the same key (tglo.noise). Of a masked model's tokens the share
that is hidden stands for the timestep, and the places for the noise (tglo.noise.masking). In a pair the
loser takes timestep, noise and dropped caption of the winner's key, and by a rule keyed by prompts every
sample those of its prompt's, which a reference cache can know; where images take the noise that they were
made from (tglo.cache.own_noise), each sample has its own in every draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

from tglo import noise, philox
from tglo.cache.latents import SIZES, LatentCache
from tglo.cache.own_noise import OwnNoise
from tglo.data import ragged
from tglo.noise.draw import Draw

if TYPE_CHECKING:
    from tglo.models.families.base import Family


class Pinnable(Protocol):
    """A tensor, or tensors together."""

    def pin_memory(self) -> Self: ...


P = TypeVar("P", bound=Pinnable)
_VERSION = "1"  # raised when a key comes to mean another draw


@dataclass(frozen=True)
class DrawRule:
    """The rule that draws follow.

    seed in [0, 2^32); caption_dropout in [0, 1]; draws: how many per sample, gone through in turn,
    or 0 for a new one each time; stratified: a sample's draws cover the schedule (needs draws);
    timesteps: a name of tglo.noise.density; guidance: what a model that takes it as an input is told, None
    for the family's own; noise: "fresh", or "own", that which a generated image was made from; draws_of:
    "sample", or "prompt", whose images then all have the same timestep, noise and dropped caption in draw k.
    """

    seed: int
    caption_dropout: float
    draws: int = 0
    stratified: bool = False
    timesteps: str = "default"
    guidance: float | None = None
    noise: str = "fresh"
    draws_of: str = "sample"

    def draw_index(self, times: Tensor) -> Tensor:
        """The numbers of the draws of samples that have come so many times before."""
        return times % self.draws if self.draws else times

    @property
    def strata(self) -> int:
        """The number of parts of the schedule that a sample's draws are spread over."""
        return max(self.draws, 1) if self.stratified else 1

    def fingerprint(self) -> dict[str, str]:
        """Name everything that a draw depends on besides model and data."""
        # Left out where they have their defaults: caches made before them are still accepted.
        own = {} if self.timesteps == "default" else {"timesteps": self.timesteps}
        if self.guidance is not None:
            own["guidance"] = repr(float(self.guidance))
        if self.noise != "fresh":
            own["noise"] = self.noise
        if self.draws_of != "sample":
            own["draws_of"] = self.draws_of
        return {
            **own,
            "draw_version": _VERSION,
            "seed": str(self.seed),
            "draws": str(self.draws),
            "stratified": str(self.stratified).lower(),
            "caption_dropout": repr(float(self.caption_dropout)),
        }


@dataclass(frozen=True, eq=False)
class CachedRows:
    """B rows of a cache, of which draws are made; on the CPU, pinned where the device is a GPU."""

    ids: Tensor
    """(B,) int64."""
    keys: Tensor
    """(B,) int64: whose timestep and noise each row takes; its own, or in a pair the winner's."""
    draw_index: int | Tensor
    """The number of the draw: one for all rows, or (B,) int64."""
    stored: dict[str, Tensor]
    """The images as they were encoded: the posterior's mean and std, (B, C, h, w) each, or tokens,
    (B, h, w).
    """
    text: dict[str, Tensor]
    """Embeddings by name, (B, ...) each; the empty prompt's where the caption is dropped."""
    sizes: dict[str, Tensor]
    """original_size, crop and target_size, (B, 2) int64 each."""
    noise: Tensor | None = None
    """(B, C, h, w) float32 where the rows take their own noise."""

    def to(self, device: torch.device) -> CachedRows:
        """Copy to a device; from pinned memory without waiting."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> CachedRows:
        """Copy into pinned memory, from where a GPU copies without waiting."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> CachedRows:
        def changed(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: change(tensor) for name, tensor in value.items()}
            return change(value) if isinstance(value, Tensor) else value

        return CachedRows(**{name: changed(value) for name, value in vars(self).items()})


class Drawer:
    """Makes draws of cached samples for a family's denoiser, with latents and embeddings in `dtype`.

    own_noise: of all samples, where the rule's noise is "own".
    """

    def __init__(
        self,
        rule: DrawRule,
        cache: LatentCache,
        family: Family,
        dtype: torch.dtype,
        own_noise: OwnNoise | None = None,
    ) -> None:
        if rule.noise not in ("fresh", "own") or (rule.noise == "own") != (own_noise is not None):
            given = "none" if own_noise is None else "some"
            raise ValueError(
                f'the draws\' noise is {rule.noise!r}, and {given} is given as own_noise; "own" needs some, '
                '"fresh" takes none'
            )
        self.own_noise = own_noise
        self.rule = rule
        self.cache = cache
        self.family = family
        self.dtype = dtype
        self.device = family.device
        family.set_timesteps(rule.timesteps)
        self.schedule = family.schedule
        told = family.guidance_in_model and family.has_guidance
        if rule.guidance is not None and not told:
            raise ValueError(
                f"guidance is {rule.guidance:g}, but the {family.name} model in {family.path} does not take "
                "it as an input; leave it out: its guidance, if it has any, is a matter of sampling"
            )
        self._unconditional = family.unconditional(cache.unconditional())

    def fingerprint(self) -> dict[str, str]:
        """Name everything that a draw depends on besides denoiser, latents and embeddings."""
        empty = {
            name: hashlib.sha256(value.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
            for name, value in sorted(self._unconditional.items())
        }
        dropped = " ".join(empty.values()) if self.rule.caption_dropout else "none"
        return {**self.rule.fingerprint(), "dropped_caption": dropped}

    def read(
        self,
        ids: Sequence[int],
        draw_index: int | Tensor,
        *,
        keys: Sequence[int] | None = None,
        captions: Sequence[str] | None = None,
    ) -> CachedRows:
        """Read B samples of one bucket; touches no accelerator, so any thread may call it.

        draw_index: the number of the draw, one for all or (B,) int64. keys: sample ids whose timestep,
        noise and dropped caption the rows take, by default their own; their prompts', whatever is given, by a
        rule that is keyed so. captions: prompts in place of
        the samples' own. Errors are those of LatentCache.
        """
        stored = self.cache.batch(ids)
        text = dict(self.cache.text(ids if captions is None else captions))
        known = torch.tensor(ids, dtype=torch.int64)
        keyed = known if keys is None else torch.tensor(keys, dtype=torch.int64)
        if self.rule.draws_of == "prompt":
            keyed = torch.from_numpy(self.cache.prompt_keys(ids))
        chance = philox.uniform(self.rule.seed, keyed, draw_index, philox.DROPOUT, 1)[:, 0]
        dropped = chance < self.rule.caption_dropout
        if bool(dropped.any()) and ragged.MASK in text:
            (nothing,) = ragged.rows_of(self._unconditional)
            prompts = zip(dropped.tolist(), ragged.rows_of(text), strict=True)
            text = ragged.stack([nothing if drop else prompt for drop, prompt in prompts])
        elif bool(dropped.any()):
            for name, value in text.items():
                empty = self._unconditional[name].to(value.dtype).expand_as(value)
                text[name] = torch.where(
                    dropped.reshape(-1, *[1] * (value.dim() - 1)), empty, value
                )
        rows = CachedRows(
            ids=known,
            keys=keyed,
            draw_index=draw_index,
            stored={name: value for name, value in stored.items() if name not in SIZES},
            text=text,
            noise=None if self.own_noise is None else self._noise(ids, stored["mean"]),
            sizes={name: stored[name] for name in SIZES},
        )
        return self.pinned(rows)

    def draw(self, rows: CachedRows) -> Draw:
        """Make the rows' draws on the device; nothing is waited for."""
        host, rows, seed = rows, rows.to(self.device), self.rule.seed
        text = {
            name: value.to(self.dtype) if value.is_floating_point() else value
            for name, value in rows.text.items()
        }
        text.update({name: host.text[name] for name in self.family.on_host})
        return self.family.draw(
            rows.stored,
            noise.Key(seed, rows.keys, rows.draw_index),
            noise.Key(seed, rows.ids, rows.draw_index, philox.POSTERIOR),
            self.rule.strata,
            self.dtype,
            self._conditions(text, rows),
            rows.noise,
        )

    def _noise(self, ids: Sequence[int], latents: Tensor) -> Tensor:
        assert self.own_noise is not None
        return self.own_noise.batch(ids, tuple(latents.shape[1:]))

    def _conditions(self, text: dict[str, Tensor], rows: CachedRows) -> dict[str, Tensor]:
        conditions = self.family.conditions(text, rows.sizes)
        if self.rule.guidance is not None:
            guidance = torch.full((len(rows.ids),), self.rule.guidance, device=self.device)
            conditions = {**conditions, "guidance": guidance}
        return conditions

    def pinned(self, values: P) -> P:
        """Pin memory where the device is a GPU, so that copies to it need no waiting."""
        return values.pin_memory() if self.device.type == "cuda" else values
