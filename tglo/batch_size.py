"""How many samples are computed at once: as given, or found by doubling until memory is short."""

from __future__ import annotations

import torch


class BatchSize:
    """Samples at once. value: now. grows: whether more are tried after each batch that fits."""

    def __init__(self, wanted: int, *, grows: bool, first: int, largest: int) -> None:
        """wanted: a size to keep, or 0 to start with `first` and, if it grows, to end at `largest`."""
        self.value = wanted or first
        self.grows = grows and not wanted
        self._fixed, self._largest = wanted > 0, largest

    @property
    def most(self) -> int:
        """The most that are ever computed at once."""
        return self._largest if self.grows else self.value

    def grow(self) -> None:
        """Try twice as many from now on, where sizes are tried."""
        if self.grows:
            self.value = min(2 * self.value, self._largest)

    def shrink(self, error: torch.OutOfMemoryError) -> None:
        """Make half as many from now on. Raises RuntimeError where one is too many, or the size was given."""
        if self._fixed or self.value == 1:
            remedy = (
                "a batch_size of 0 finds one that fits" if self._fixed else "use a smaller dtype"
            )
            raise RuntimeError(
                f"no memory for {self.value} images at once ({error}); {remedy}"
            ) from error
        self.grows, self.value = False, self.value // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
