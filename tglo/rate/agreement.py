"""How far raters agree: Krippendorff's alpha for ordered values, by the library krippendorff."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tglo.rate.events import STARS


def alpha(stars: NDArray[np.int8]) -> tuple[float | None, str]:
    """Return Krippendorff's alpha, ordinal, of the ratings (raters, images), and why it is None where it is.

    stars: 1 to 5, anything below for no rating. 1 is full agreement, 0 what chance would give.
    """
    import krippendorff

    values = np.arange(1, STARS + 1)
    counts = np.stack([(stars == value).sum(axis=0) for value in values], axis=1)
    raters = int((stars > 0).any(axis=1).sum())
    shared = counts[counts.sum(axis=1) > 1]
    if raters < 2:
        return None, "it takes two raters"
    if not len(shared):
        return None, "no image has ratings of two raters"
    if (shared.sum(axis=0) > 0).sum() < 2:
        return None, "all images that several have rated have the same stars"
    found = krippendorff.alpha(
        value_counts=shared, value_domain=values, level_of_measurement="ordinal"
    )
    return float(found), ""
