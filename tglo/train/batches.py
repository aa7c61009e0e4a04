"""From a position in the run to a micro batch on the device: which rows, and which draw of them.

Everything is a pure function of (seed, sample, draw), where the draw is how often the sample has come
before: a resumed run, or one on another number of processes, sees the same timesteps, noise, latents and
dropped captions (tglo.cache.drawer).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tglo.cache.drawer import CachedRows, Drawer
from tglo.cache.reference import ReferenceErrors
from tglo.data.sampler import BatchSampler
from tglo.objectives.micro_batch import BatchIds, ErrorMicroBatch, Labels, MicroBatch
from tglo.threshold.weights import Weighing
from tglo.train.config import TrainConfig

_Read = tuple[BatchIds, Labels, Tensor | None, CachedRows]
"""One micro batch as it is read, on the CPU: names, labels, the reference's cached errors, cached rows."""


@dataclass(frozen=True, eq=False)
class Samples:
    """The rows that are trained on, and how they come together."""

    ids: NDArray[np.int64]
    lines: NDArray[np.int64]
    """Lines of the manifest, for messages."""
    labels: Labels
    captions: Sequence[str] | None
    """Prompts in place of the cached ones."""
    units: NDArray[np.int64]
    """(units, G) what the sampler shuffles: rows, pairs of winner and loser, or groups, the best first."""
    weighing: Weighing | None = None
    """How the labels' weights were found, where they have some."""

    def weighed(self, weighing: Weighing | None) -> Samples:
        """Return the samples with the weights that follow from `weighing`: none where the loss has them by itself."""
        if weighing is None or weighing.published:
            return self
        labels = self.labels
        weights = weighing.of(labels.scores.numpy(), labels.thresholds.numpy())
        labels = replace(labels, weights=torch.from_numpy(weights))
        return replace(self, labels=labels, weighing=weighing)


class Batches:
    """Reads, a micro batch ahead, and draws. It is quick where `get` is called in the run's order."""

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
        self.shift = 0
        """From a step to its place in the sampler's order, after a resume with other batches."""
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tglo-read")
        self._ahead: tuple[tuple[int, int], Future[_Read]] | None = None

    def get(self, step: int, micro: int) -> MicroBatch:
        """The micro batch `micro` of step `step` for this rank, not answered yet."""
        ids, labels, errors, rows = self._read_ahead(step, micro)
        device, objective = self.drawer.device, self.config.objective
        draw = self.drawer.draw(rows)
        kind = ErrorMicroBatch if self.drawer.family.answers_with_error else MicroBatch
        return kind(
            ids=ids,
            labels=labels.to(device, non_blocking=True),
            draw=draw,
            timestep_weight=self.drawer.schedule.timestep_weight(
                draw.index, objective.timestep_weight, objective.min_snr_gamma
            ),
            reference_error=None if errors is None else errors.to(device, non_blocking=True),
            group=self.samples.units.shape[1],
        )

    def close(self) -> None:
        """End the reading thread."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _read_ahead(self, step: int, micro: int) -> _Read:
        here = (step, micro)
        if self._ahead is not None and self._ahead[0] == here:
            read = self._ahead[1].result()
        else:
            read = self._read(*here)
        last = micro + 1 == self.config.optimizer.accumulation
        then = (step + 1, 0) if last else (step, micro + 1)
        self._ahead = (then, self._reader.submit(self._read, *then))
        return read

    def _read(self, step: int, micro: int) -> _Read:
        numbers, draws = self.sampler.batch(step + self.shift, micro, self.rank)
        samples = self.samples
        units = samples.units[numbers]
        order = units.T.reshape(-1)  # of pairs all winners, then all losers; so of groups
        draw_index = self.drawer.rule.draw_index(torch.from_numpy(np.tile(draws, units.shape[1])))
        # A pair shares the winner's draw, a group its first sample's.
        shared = np.tile(units[:, 0], units.shape[1])
        keys = shared if self.config.objective.share_draws else order
        ids = samples.ids[order].tolist()
        labels, errors = samples.labels[torch.from_numpy(order)], None
        if self.reference_errors is not None:
            errors = self.drawer.pinned(self.reference_errors.of(ids, draw_index))
        rows = self.drawer.read(
            ids,
            draw_index,
            keys=samples.ids[keys].tolist(),
            captions=samples.captions and [samples.captions[row] for row in order.tolist()],
        )
        lines = samples.lines[order].tolist()
        return BatchIds(ids, lines), self.drawer.pinned(labels), errors, rows
