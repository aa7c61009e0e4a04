"""Metrics of a run: the health of the loss, where the time goes, and metrics.jsonl."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tglo.files import append, disk_space, write_bytes
from tglo.losses.tgo import TGOStats
from tglo.train import processes

log = logging.getLogger("tglo")
SATURATED = 4.0
NOISY = 0.1  # of r: one tenth of the spread that temperature = "auto" aims at


class Health:
    """Sums over samples, on the device, from which the means of a logging interval follow.

    r_positive and r_negative are the mean implicit scores of the two classes (training should pull
    them apart); implicit_accuracy is the share of samples whose r has its label's sign; saturated
    the share with |r| > 4, where the sigmoid's gradient is below 2% of its largest.
    """

    def __init__(self, device: torch.device) -> None:
        self._names: tuple[str, ...] = ()
        self._sums = torch.zeros(1, dtype=torch.float64, device=device)
        self._square = torch.zeros(2, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, stats: TGOStats) -> None:
        """Take in one micro batch; no value is read back."""
        r, label = stats.implicit_score.double(), stats.label
        terms = {
            "loss": loss.detach().double() * r.numel(),
            "r_positive": torch.where(label, r, 0.0).sum(),
            "r_negative": torch.where(label, 0.0, r).sum(),
            "positives": label.sum(),
            "implicit_accuracy": ((r > 0) == label).sum(),
            "saturated": (r.abs() > SATURATED).sum(),
            "policy_error": stats.policy_error.double().mean() * r.numel(),
            "reference_error": stats.reference_error.double().mean() * r.numel(),
            "weight": stats.weight.double().sum(),
            "count": torch.full_like(r.sum(), r.numel()),
        }
        self._names = tuple(terms)
        self._sums = self._sums + torch.stack([term.to(self._sums) for term in terms.values()])
        self._square += torch.stack([r.square().sum(), terms["count"]])

    def mean_square(self) -> float:
        """Return the mean of r^2 over all ranks since the last call; collective."""
        square, count = processes.reduce_sum(self._square.clone()).tolist()
        self._square.zero_()
        return square / count

    def read(self) -> dict[str, float]:
        """Return the means over all ranks since the last call; collective."""
        sums = processes.reduce_sum(self._sums.clone()).tolist()
        self._sums.zero_()
        values = dict(zip(self._names, sums, strict=True))
        count, positives = values.pop("count"), values.pop("positives")
        result = {name: value / count for name, value in values.items()}
        result["r_positive"] = values["r_positive"] / positives if positives else 0.0
        negatives = count - positives
        result["r_negative"] = values["r_negative"] / negatives if negatives else 0.0
        result["positive_share"] = positives / count
        return result


class Clock:
    """Measures the seconds spent in the named parts of a step, by the host's clock."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block and add it to `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def read(self, steps: int) -> dict[str, float]:
        """Return the mean seconds per step of each part since the last call."""
        result = {f"seconds/{name}": spent / steps for name, spent in self.seconds.items()}
        self.seconds = {}
        return result


class MetricsFile:
    """`metrics.jsonl`: one line per logging interval, complete whatever the trackers do.

    No step is computed from it, so a damaged one is no reason not to train: lines that cannot be read
    are dropped with a warning.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        self.path = path
        if path.exists():
            lines = [line for line in path.read_bytes().splitlines() if line]
            read = [read_line(line) for line in lines]
            steps = [None if found is None else found[0] for found in read]
            # Lines after the checkpoint belong to steps that are done again.
            kept = [
                line + b"\n"
                for line, step in zip(lines, steps, strict=True)
                if step is not None and step <= first_step
            ]
            write_bytes(path, b"".join(kept))
            if damaged := steps.count(None):
                log.warning("%s: %d of %d lines are damaged and dropped", path, damaged, len(lines))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one line, or nothing: DiskFull."""
        line = json.dumps({"step": step, **values}) + "\n"
        with disk_space(self.path, len(line)), self.path.open("ab", buffering=0) as file:
            append(file.fileno(), self.path, line.encode(), os.fstat(file.fileno()).st_size)


def read_line(line: bytes) -> tuple[float, dict[str, Any]] | None:
    """Return the step and the values of a line, or None if it is torn or otherwise damaged."""
    try:
        values = json.loads(line)
        step = float(values["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return (step, values) if math.isfinite(step) else None
