"""tglo's own training step: prepared from a configuration and run by the functions of tglo.train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from benchmarks.step.draws import CONFIDENCE, PERCENTILE, ScoredSamples
from benchmarks.step.encoders import Encoders
from benchmarks.step.operations import LORA_RANK
from benchmarks.step.peers import LEARNING_RATE
from benchmarks.step.workplace import CAPTION_DROPOUT, SEED, TEMPERATURE, Workplace
from tglo.devices import DTYPES
from tglo.train.config import TrainConfig
from tglo.train.config_checks import check
from tglo.train.config_files import parse_config
from tglo.train.engines.choose import start_processes
from tglo.train.guard import Guard
from tglo.train.lock import StopSignal
from tglo.train.loop import _step
from tglo.train.reports.metrics import Clock, Health
from tglo.train.run import prepare

Overrides = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Ours:
    """A configuration of tglo."""

    name: str
    train: Literal["full", "lora"] = "full"
    overrides: Overrides = field(default_factory=dict)
    """Section -> key -> value, over what all have."""
    online: bool = False
    """Also encode the images and prompts in each step, as if there were no cache."""
    reference: bool = True
    """Whether a reference model predicts in the step."""

    def start(self, workplace: Workplace) -> OurStep:
        return OurStep(self, workplace)

    def config(self, workplace: Workplace) -> TrainConfig:
        """Return the configuration of a run in the workplace. ValueError for an unknown override."""
        values: dict[str, Any] = {
            "model": {
                "path": str(workplace.model),
                "train": self.train,
                "lora_rank": LORA_RANK,
                "lora_alpha": float(LORA_RANK),
            },
            "data": {
                "manifest": str(workplace.manifest),
                "cache": str(workplace.cache),
                "percentile": PERCENTILE,
                "caption_dropout": CAPTION_DROPOUT,
            },
            "objective": {"temperature": TEMPERATURE, "confidence": CONFIDENCE},
            "optimizer": {
                "steps": 10**6,
                "schedule": "constant",
                "learning_rate": LEARNING_RATE,
                "micro_batch": 1,
            },
            "engine": {
                "kind": "plain",
                "device": workplace.device_name,
                "precision": workplace.precision,
                **workplace.size.engine,
            },
            "output": {"folder": str(workplace.folder / "runs" / self.name), "progress": False},
        }
        for section, changed in self.overrides.items():
            values[section] = {**values[section], **changed}
        return parse_config({"seed": SEED, **values}, self.name)


class OurStep:
    """tglo's step, ready to run."""

    def __init__(self, ours: Ours, workplace: Workplace) -> None:
        self.config = ours.config(workplace)
        check(self.config)
        self.config.output.folder.mkdir(parents=True)
        device = start_processes(self.config)
        self.parts = prepare(self.config, device)
        self.guard = Guard(self.parts.engine, self.config.engine.find_bad_gradients)
        self.health, self.stop = Health(device), StopSignal()
        self.samples = ScoredSamples(workplace)
        self.count = 0
        self.encoders = None
        if ours.online:
            dtype = DTYPES[workplace.precision]
            self.encoders = Encoders(workplace, self.samples, dtype)

    def use(self, batch: int) -> None:
        """Set the batch of the steps from here on: the model is prepared once for all batches."""
        self.parts.batches.sampler = self.samples.sampler(batch)
        if self.count:
            self.count += 1  # the next step has been read ahead, with the batch before

    def compiled(self) -> bool:
        return self.config.engine.compile != "none"

    def rows(self) -> list[int]:
        """Return the samples of the next step."""
        return self.parts.batches.sampler.batch(self.count, 0, 0)[0].tolist()

    def step(self, clock: Clock) -> None:
        """Make one update."""
        self._step(clock)

    def checked_step(self) -> tuple[float, float]:
        """Make one update, the first or after another checked one, and return its loss and gradient norm."""
        norm = self._step(Clock())
        return self.health.read()["loss"], float(norm)

    def _step(self, clock: Clock) -> Tensor | float:
        if self.encoders is not None:
            with clock.part("encode"):
                rows = self.rows()
                self.encoders.latents(rows)
                self.encoders.text(rows)
        norm = _step(self.parts, self.count, self.guard, self.health, clock, self.stop)[1]
        self.count += 1
        return norm
