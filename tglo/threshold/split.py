"""Whether a threshold splits the samples as an objective needs it."""

from __future__ import annotations


def check_split(
    name: str, positives: int, count: int, *, needs_positives: bool, needs_negatives: bool
) -> None:
    """Raise ValueError when all samples have one label and the objective `name` cannot learn from that.

    positives: of `count` samples. An objective that contrasts labels needs both: with one alone it
    would pull every sample up, or push every one down until the model breaks, and its loss would fall
    all the same.
    """
    if needs_positives and not positives:
        raise ValueError(
            f"all {count} samples are below their threshold, and objective {name} learns from those at "
            "or above it. Choose a lower data.percentile, or estimate the threshold (data.threshold) "
            "from scores like these"
        )
    if needs_negatives and positives == count:
        raise ValueError(
            f"all {count} samples are at or above their threshold, so objective {name} has nothing to "
            "contrast and would only pull every sample up. Choose a higher data.percentile (`tglo "
            "threshold` says how high), or objective sft, which trains on all of them"
        )
