"""Aspect-ratio buckets: sizes of about one area, so images keep their shape and batches stack."""

from __future__ import annotations

import math
from collections.abc import Sequence

Size = tuple[int, int]  # (height, width) in pixels
Bucket = tuple[int, ...]  # a Size, or of videos (frames, height, width)


def make_buckets(resolution: int, *, step: int = 64, max_aspect: float = 2.0) -> list[Size]:
    """Return sizes (H, W) with H * W at most resolution^2 and sides multiples of step, widest first.

    They are, for each height, the widest width that fits, and the same turned by a right angle; the
    square is always among them. Raises ValueError unless resolution is a multiple of step and
    max_aspect is at least 1.
    """
    if step < 1 or resolution < step or resolution % step:
        below = max(step, resolution // step * step) if step > 0 else 64
        raise ValueError(
            f"resolution must be a multiple of {step} (the model's step), got {resolution}; "
            f"{below} is one"
        )
    if not max_aspect >= 1:
        raise ValueError(f"max_aspect must be at least 1, got {max_aspect}")
    buckets = set()
    for short in range(step, resolution + 1, step):
        long = resolution**2 // short // step * step
        if long <= max_aspect * short:
            buckets |= {(short, long), (long, short)}
    return sorted(buckets)


def bucket_step(resolution: int, model_step: int) -> int:
    """Return a step of about a sixteenth of the resolution, which gives some twenty buckets.

    It is the largest multiple of the model's step that divides the resolution and is at most a
    sixteenth of it (64 at 1024), or the model's step if there is none.
    """
    for step in range(resolution // 16 // model_step * model_step, model_step, -model_step):
        if resolution % step == 0:
            return step
    return model_step


def nearest_bucket(height: int, width: int, buckets: Sequence[Size]) -> Size:
    """Return the bucket whose aspect ratio is proportionally nearest; of two, the larger one."""
    if height < 1 or width < 1 or not buckets:
        raise ValueError(f"needs a size of at least 1 x 1 and a bucket, got {height} x {width}")
    aspect = math.log(height / width)

    def distance(bucket: Size) -> tuple[float, int, Size]:
        off = abs(aspect - math.log(bucket[0] / bucket[1]))
        return round(off, 9), -bucket[0] * bucket[1], bucket

    return min(buckets, key=distance)
