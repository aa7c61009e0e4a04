"""The temperature T of a run: fixed, or calibrated from the measured spread of the errors.

The log-ratio is -(omega_t / T)(e_policy - e_reference), where the errors are means over elements.
How far they drift apart depends on the model, the data and the learning rate, so one T saturates
the sigmoid of one model (every r far beyond +-4: no gradient, no ranking) and leaves another's
flat. `auto` starts at the family's default and raises T, over the first quarter of the run, to
where the root mean square of r is at most 1; then T is frozen.
"""

from __future__ import annotations

import logging
import math

log = logging.getLogger("tglo")

TARGET_SPREAD = 1.0
SATURATED_SHARE = 0.5
MEMORY = 0.8


class Temperature:
    """The current T in `value`; `auto` calibrates it, else it stays."""

    def __init__(self, setting: float | str, default: float, steps: int) -> None:
        self.auto = setting == "auto"
        self.value = default if isinstance(setting, str) else float(setting)
        self.until = max(10, steps // 4)
        self._square = 0.0
        self._seen = 0
        self._warned = False

    def calibrating(self, step: int) -> bool:
        """Say whether `auto` learns from step `step` (from 0)."""
        return self.auto and step < self.until

    def observe(self, step: int, mean_square: float) -> None:
        """Take in one step's mean of r^2 over all samples, r as computed with `value`."""
        if not self.calibrating(step):
            return
        drift = mean_square * self.value**2
        self._seen += 1
        self._square = MEMORY * self._square + (1 - MEMORY) * drift
        square = self._square / (1 - MEMORY**self._seen)
        self.value = max(self.value, math.sqrt(square) / TARGET_SPREAD)
        if step + 1 == self.until:
            log.info("temperature calibrated to %.4g and frozen", self.value)

    def warn_if_saturated(self, step: int, share: float) -> None:
        """Log one warning when most of the samples' |r| exceeds 4."""
        if share > SATURATED_SHARE and not self._warned:
            self._warned = True
            log.warning(
                "step %d: |r| > 4 for %.0f%% of the samples: the sigmoid is saturated and these "
                "samples teach little. Raise objective.temperature from %.3g, for example to %.3g, "
                'or set it to "auto"',
                step,
                100 * share,
                self.value,
                4 * self.value,
            )

    def state(self) -> dict[str, float]:
        """The numbers that a checkpoint keeps."""
        return {
            "value": self.value,
            "square": self._square,
            "seen": self._seen,
            "until": self.until,
        }

    def restore(self, state: dict[str, float]) -> None:
        """Resume from `state`; a fixed temperature is what the configuration says now.

        The calibration ends where it was to end at first: a longer run does not unfreeze it.
        """
        if not self.auto:
            return
        self.until = int(state.get("until", self.until))
        self.value = state["value"]
        self._square = state["square"]
        self._seen = int(state["seen"])
