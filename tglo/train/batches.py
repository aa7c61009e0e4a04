"""From a position in the run to a batch on the device: which rows, and which draw of them.

Everything is a pure function of (seed, sample, draw), where the draw follows from the epoch: a
resumed run, or one on another number of processes, sees the same timesteps, noise, latents and
dropped captions (tglo.cache.drawer).
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tglo.cache.drawer import CachedRows, Drawer
from tglo.cache.reference import ReferenceErrors
from tglo.data.sampler import BatchSampler
from tglo.noise.draw import Draw
from tglo.objectives import Given
from tglo.train.config import TrainConfig


@dataclass(frozen=True, eq=False)
class Samples:
    """The rows that are trained on, and how they come together."""

    ids: list[int]
    lines: list[int]
    scores: Tensor
    """(rows,) float64."""
    thresholds: Tensor
    """(rows,) float64."""
    quantiles: Tensor
    """(rows,) float64, each score's among those of its prompt."""
    captions: list[str] | None
    """Prompts in place of the cached ones."""
    units: NDArray[np.int64]
    """(units, 1 or 2) what the sampler shuffles: rows, or pairs of winner and loser."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One micro batch of B samples with one draw each, on the training device; of pairs the winners
    come first.
    """

    ids: list[int]
    lines: list[int]
    """Lines of the manifest, for messages."""
    scores: Tensor
    """(B,) float64."""
    threshold: Tensor
    """(B,) float64."""
    quantile: Tensor
    """(B,) float64."""
    reference_error: Tensor | None
    """(B,) float64, the reference's cached error of this draw, where it is cached."""
    timestep_weight: Tensor
    """(B,) float64, omega_t."""
    draw: Draw
    """The denoiser's inputs and its target, in the engine's dtype."""
    answers_with_error: bool
    """The model answers with errors (B,), not with predictions."""

    def given(self, policy: Tensor, reference: Tensor | None) -> Given:
        """What the objective is given once policy and, unless cached, reference have answered."""
        answers: dict[str, Tensor | None] = {
            "target": self.draw.target,
            "reference_pred": reference,
        }
        error = self.reference_error
        if self.answers_with_error:
            answers = {"target": None}
            error = error if reference is None else reference
        return Given(
            policy,
            **answers,  # type: ignore[arg-type]
            reference_error=error,
            scores=self.scores,
            threshold=self.threshold,
            quantile=self.quantile,
            timestep_weight=self.timestep_weight,
        )


class Batches:
    """Reads, a batch ahead, and draws. ``get`` must be called in the run's order to be quick."""

    def __init__(
        self,
        config: TrainConfig,
        samples: Samples,
        drawer: Drawer,
        sampler: BatchSampler,
        rank: int,
        reference_errors: ReferenceErrors | None = None,
    ) -> None:
        self.config = config
        self.samples = samples
        self.drawer = drawer
        self.sampler = sampler
        self.rank = rank
        self.reference_errors = reference_errors
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tglo-read")
        self._ahead: tuple[tuple[int, int], Future[_Row]] | None = None

    def get(self, step: int, micro: int) -> Batch:
        """The micro batch ``micro`` of step ``step`` for this rank."""
        row = self._read_ahead(step, micro)
        draw = self.drawer.draw(row.cached)
        objective = self.config.objective
        vectors = {
            name: None if value is None else value.to(self.drawer.device, non_blocking=True)
            for name, value in row.vectors.items()
        }
        return Batch(
            ids=row.ids,
            lines=row.lines,
            **vectors,  # type: ignore[arg-type]
            timestep_weight=self.drawer.schedule.timestep_weight(
                draw.index, objective.timestep_weight, objective.min_snr_gamma
            ),
            draw=draw,
            answers_with_error=self.drawer.family.answers_with_error,
        )

    def close(self) -> None:
        """End the reading thread."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _read_ahead(self, step: int, micro: int) -> _Row:
        here = (step, micro)
        if self._ahead is not None and self._ahead[0] == here:
            row = self._ahead[1].result()
        else:
            row = self._read(*here)
        last = micro + 1 == self.config.optimizer.accumulation
        then = (step + 1, 0) if last else (step, micro + 1)
        self._ahead = (then, self._reader.submit(self._read, *then))
        return row

    def _read(self, step: int, micro: int) -> _Row:
        numbers, epoch = self.sampler.batch(step, micro, self.rank)
        draw_index, samples = self.drawer.rule.draw_index(int(epoch)), self.samples
        units = samples.units[np.asarray(numbers, dtype=np.int64)]
        order = units.T.reshape(-1)  # of pairs all winners, then all losers
        rows = torch.from_numpy(order)
        ids = [samples.ids[row] for row in order]
        first = np.tile(units[:, 0], units.shape[1])  # a pair shares the winner's draw
        vectors: dict[str, Tensor | None] = {
            "scores": self.drawer.pinned(samples.scores[rows]),
            "threshold": self.drawer.pinned(samples.thresholds[rows]),
            "quantile": self.drawer.pinned(samples.quantiles[rows]),
            "reference_error": None,
        }
        if self.reference_errors is not None:
            vectors["reference_error"] = self.drawer.pinned(
                self.reference_errors.of(ids, draw_index)
            )
        return _Row(
            ids=ids,
            lines=[samples.lines[row] for row in order],
            vectors=vectors,
            cached=self.drawer.read(
                ids,
                draw_index,
                keys=[samples.ids[row] for row in first],
                captions=samples.captions and [samples.captions[row] for row in order],
            ),
        )


@dataclass(frozen=True, eq=False)
class _Row:
    """What is read of one micro batch, on the CPU."""

    ids: list[int]
    lines: list[int]
    vectors: dict[str, Tensor | None]
    cached: CachedRows
