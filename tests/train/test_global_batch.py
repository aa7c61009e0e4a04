"""What keeps the global batch on another number of processes."""

from __future__ import annotations

import pytest

from tglo.train.config import OptimizerConfig
from tglo.train.global_batch import changed_batch

BEFORE = {"micro_batch": 4, "accumulation": 2}


@pytest.mark.parametrize(
    ("were", "are", "micro", "accumulation", "unit", "words"),
    [
        (2, 1, 4, 4, 1, ""),
        (2, 1, 4, 2, 1, "8 samples, where it had 16; optimizer.accumulation = 4 keeps these"),
        (2, 4, 4, 2, 1, "32 samples, where it had 16; optimizer.accumulation = 1 keeps these"),
        (2, 8, 4, 2, 1, "optimizer.micro_batch = 2 and optimizer.accumulation = 1 keeps"),
        (3, 2, 4, 2, 1, "16 samples, where it had 24; optimizer.accumulation = 3 keeps"),
        (2, 3, 4, 2, 1, "24 samples, where it had 16, which cannot be divided among 3 processes"),
        (3, 4, 4, 2, 2, "optimizer.micro_batch = 2 and optimizer.accumulation = 3 keeps"),
        (2, 16, 4, 2, 2, "which cannot be divided among 16 processes"),
    ],
)
def test_it_is_told(
    were: int, are: int, micro: int, accumulation: int, unit: int, words: str
) -> None:
    now = OptimizerConfig(micro_batch=micro, accumulation=accumulation)
    told = changed_batch(BEFORE, were, now, are, unit)
    assert told.endswith(words) or words in told
    assert bool(told) == bool(words)
