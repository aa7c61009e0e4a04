"""The newest lines of a run, as the rules of health.py see them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tglo.watch.curves import has_reference
from tglo.watch.metrics_file import MetricsFile
from tglo.watch.state import table, total_steps

MOST_LINES = 50  # the newest fifth of a run, at most these
FEWEST_LINES = 3
EARLY = 0.2  # share of the run in which r may still be small and the ranking unlearned
NEEDED = (
    *("step", "loss", "r_positive", "r_negative", "implicit_accuracy", "saturated"),
    *("policy_error", "reference_error", "positive_share", "gradient_norm", "temperature"),
    *("noise_floor", "seconds_data", "seconds_reference", "seconds_policy", "seconds_loss"),
    *("seconds_backward", "seconds_update"),
)


class Recent:
    """The newest lines of a run, as the rules see them."""

    def __init__(self, metrics: MetricsFile, config: dict[str, Any]) -> None:
        count = int(np.clip(len(metrics) // 5, FEWEST_LINES, MOST_LINES))
        self.config = config
        self.step = metrics.last("step")
        self._lines = {name: metrics.column(name)[-count:] for name in NEEDED}
        total = total_steps(config)
        self.early = total is not None and self.step < EARLY * total
        self.has_r = has_reference(metrics)
        """Whether the objective compares with a reference; supervised fine-tuning does not."""

    def lines(self, name: str) -> NDArray[np.float64]:
        """Return the finite values of a column."""
        values = self._lines[name]
        return values[np.isfinite(values)]

    def mean(self, name: str) -> float:
        """Return a column's mean, 0 where it has no value."""
        values = self.lines(name)
        return float(values.mean()) if values.size else 0.0

    def newest(self, name: str) -> float:
        """Return a column's value in the newest line."""
        return float(self._lines[name][-1])

    @property
    def apart(self) -> float:
        """Return how far r of positives is above that of negatives."""
        return self.mean("r_positive") - self.mean("r_negative")

    def setting(self, section: str, key: str, default: float) -> float:
        """Return a number of the configuration."""
        found = table(self.config, section).get(key)
        return float(found) if isinstance(found, int | float) else default

    @property
    def samples(self) -> float:
        """At least how many samples the lines stand for: those of one process."""
        steps = self._lines["step"]
        every = float(np.diff(steps).mean()) if len(steps) > 1 else float(steps[-1])
        micro = self.setting("optimizer", "micro_batch", 1)
        return max(1.0, len(steps) * every * micro * self.setting("optimizer", "accumulation", 1))
