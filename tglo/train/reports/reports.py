"""Progress bar, metrics.jsonl and trackers of one run; only rank 0 writes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from tglo.console.durations import duration
from tglo.console.verbosity import bar_hidden
from tglo.train import processes
from tglo.train.config_files import to_plain
from tglo.train.engines.optimizers import learning_rate
from tglo.train.reports.metrics import NOISY, Clock, Health, MetricsFile
from tglo.train.reports.trackers import Picture, Trackers
from tglo.train.run import Run

log = logging.getLogger("tglo")


class Reports:
    """Lines of metrics at intervals; `last` is the newest."""

    def __init__(self, run: Run, first: int) -> None:
        config = run.config
        self.run = run
        self.last: dict[str, float] = {}
        self._first, self._begun = first, time.perf_counter()
        self._step, self._time = first, self._begun
        self._told: int | None = None  # tenths of the run
        main = processes.rank() == 0
        self._bar = tqdm(
            total=config.optimizer.steps,
            initial=first,
            unit="step",
            disable=bar_hidden(main and config.output.progress),
        )
        path = config.output.folder / "metrics.jsonl"
        self._file = processes.on_main(lambda: MetricsFile(path, first))
        self._trackers = Trackers(config.output, to_plain(config)) if main else None

    def advance(self) -> None:
        """One step is done."""
        self._bar.update()

    def write(self, step: int, health: Health, clock: Clock, norm: Tensor | float) -> None:
        """Write the means since the last line, and the last gradient's norm; collective."""
        run, optimizer = self.run, self.run.config.optimizer
        now, steps = time.perf_counter(), step - self._step
        samples = steps * optimizer.micro_batch * optimizer.accumulation * processes.world_size()
        values = {
            "epoch": run.epoch(step),
            **health.read(),
            "gradient_norm": float(norm),
            "learning_rate": learning_rate(optimizer, step - 1),
            "temperature": run.temperature.value,
            "samples_per_second": samples / (now - self._time),
            **clock.read(steps),
        }
        if run.noise_floor is not None:
            values["noise_floor"] = run.noise_floor
        if run.engine.device.type == "cuda":
            values["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self._step, self._time, self.last = step, now, values

        def append() -> None:
            if self._file is not None:
                self._file.write(step, values)

        processes.together(append)
        if self._trackers is None:
            return
        if run.objective.saturates:
            run.temperature.warn_if_saturated(step, values["saturated"])
        self._trackers.write(step, values)
        rate = values["samples_per_second"]
        self._bar.set_postfix_str(f"loss {values['loss']:.3f}, {rate:.1f} samples/s")
        if self._bar.disable and run.config.output.progress:
            self._tell_progress(step, values)

    def _tell_progress(self, step: int, values: dict[str, float]) -> None:
        """Log where the run is, without a terminal for a bar: after its first line and at each tenth."""
        total = self.run.config.optimizer.steps
        if self._told == (tenth := 10 * step // total):
            return
        self._told = tenth
        left = (time.perf_counter() - self._begun) / (step - self._first) * (total - step)
        ending = f"about {duration(left)} to go" if step < total else "done"
        text = "step %d of %d: loss %.3f, %.1f samples/s, %s"
        log.info(text, step, total, values["loss"], values["samples_per_second"], ending)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave the time that something else than training takes out of samples_per_second."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._time += time.perf_counter() - begun

    def show(self, folder: Path | None, step: int) -> None:
        """Hand validation images to the trackers, those that `exporting.validate` wrote to `folder`."""
        if self._trackers is None or folder is None:
            return
        pictures = {}
        for number, prompt in enumerate(self.run.config.output.validation_prompts):
            image, video = (folder / f"{number:03d}{suffix}" for suffix in (".png", ".mp4"))
            name = f"validation/{number:03d}"
            pictures[name] = Picture(image, prompt, video if video.exists() else None)
        self._trackers.write(step, pictures)

    def close(self) -> None:
        """End the bar and the trackers."""
        self._bar.close()
        if self._trackers is not None:
            self._trackers.close()


def report_noise_floor(run: Run, mean_square: float) -> None:
    """Log what r is before the first update, when policy and reference are the same weights.

    With a cached reference it is not exactly 0: the cache was computed in other batches, perhaps by
    other kernels. Where that is not small against 1, the sigmoid sees noise.
    """
    floor = run.noise_floor = math.sqrt(mean_square)
    if processes.rank() != 0:
        return
    text = "noise floor of r with the cached reference: %.2g (policy equals reference)"
    if floor <= NOISY:
        log.info(text, floor)
        return
    log.warning(
        text + ", not small against 1. Make the reference cache with the same precision, --weights "
        "and attention as the training, on the same kind of device, or raise objective.temperature "
        "from %.3g",
        floor,
        run.temperature.value,
    )
