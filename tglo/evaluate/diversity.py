"""Diversity, the difference of the images of one prompt: a model that has collapsed repeats itself.

An image is scaled to SIDE x SIDE pixels (each the mean of an area) in CIE L*a*b* (D65). The distance of
two images is the root mean square over those pixels of the colour difference,
sqrt(dL^2 + da^2 + db^2), in the unit of L*: 100 between black and white. A prompt's diversity is the
mean distance over all pairs of its images. It needs no network and no download; it sees layout and
colour, and neither texture below a pixel of that size nor meaning.

Of a video FRAMES frames, evenly from the first to the last, take an image's place: the mean is over the
pixels of all of them, so that videos which are the same but for their time also differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
FRAMES = 8
Floats = NDArray[np.float64]

# Linear sRGB to CIE XYZ with Y = 1 for white (IEC 61966-2-1), and D65's white.
_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], dtype=np.float64
)
_WHITE = _XYZ.sum(axis=1)


def features(image: Image.Image) -> Floats:
    """Return (SIDE * SIDE * 3,): L*a*b* over the root of the number of pixels, so that the distance above is
    the Euclidean one.
    """
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    rgb = np.asarray(small, dtype=np.float64) / 255
    return (to_lab(rgb) / SIDE).ravel()


def video_features(frames: Sequence[Image.Image]) -> Floats:
    """Return the `features` of all frames (at least one) over the root of their number."""
    return np.concatenate([features(frame) for frame in frames]) / len(frames) ** 0.5


def to_lab(rgb: Floats) -> Floats:
    """Convert sRGB (..., 3) in [0, 1] to CIE L*a*b* (CIE 15:2004)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _XYZ.T / _WHITE
    edge = 6 / 29
    f = np.where(ratio > edge**3, np.cbrt(ratio), ratio / (3 * edge**2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def mean_distance(images: Sequence[Floats]) -> float:
    """Return the mean Euclidean distance over all pairs of at least two feature vectors."""
    if len(images) < 2:
        raise ValueError(f"{len(images)} image has no pair; sample at least 2 of each prompt")
    total = 0.0
    for i, image in enumerate(images):
        for other in images[:i]:
            total += float(np.linalg.norm(image - other))
    return total / (len(images) * (len(images) - 1) / 2)
