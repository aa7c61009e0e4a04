"""Real handwritten digits as crisp 32x32 drawings whose pen width can be chosen.

The source is scikit-learn's ``load_digits``: 1,797 real 8x8 scans. Each scan is enlarged smoothly,
its centre line is found as the ridge of the ink, and the line is drawn again with a round pen. The
shape of the digit is a person's; only the pen is ours, so that a model trained on these drawings
spans thin to bold strokes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from tglo.shapes import drawing

SIZE = drawing.SIZE  # pixels of a side
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PROMPTS = tuple(f"a handwritten {name}" for name in NAMES)
PENS = (1.0, 5.0)  # thinnest and boldest pen, in pixels, that the base model is trained on

_OVERSAMPLING = 3
_SOFTNESS = 0.3  # pixels: the pen's edge, kept below one pixel so that the strokes stay crisp


@dataclass(frozen=True)
class Digits:
    """``distance`` (N, 96, 96) float16: pixels (of the 32x32 drawing) to the centre line;
    ``labels`` (N,) int64.
    """

    distance: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def draw(self, rows: np.ndarray, pen: np.ndarray) -> np.ndarray:
        """Draw digits ``rows`` (B,) with pens of diameter ``pen`` (B,) pixels: (B, 32, 32) float32,
        0 paper, 1 ink.
        """
        distance = self.distance[rows].astype(np.float32)
        edge = (distance - 0.5 * np.asarray(pen, np.float32)[:, None, None]) / _SOFTNESS
        ink = 1.0 / (1.0 + np.exp(np.clip(edge, -30.0, 30.0)))
        fine = (len(ink), SIZE, _OVERSAMPLING, SIZE, _OVERSAMPLING)
        return ink.reshape(fine).mean(axis=(2, 4))

    def prompts(self, rows: np.ndarray) -> list[str]:
        return [PROMPTS[label] for label in self.labels[rows]]


@lru_cache(maxsize=2)
def load(start: int = 0, step: int = 1) -> Digits:
    """Load every ``step``-th digit from ``start`` in scikit-learn's order; all 1,797 take about 5 s on
    first use.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    scans, labels = source.images[start::step] / 16.0, source.target[start::step]
    distance = np.stack([_distance_to_centre_line(scan) for scan in scans])
    return Digits(distance.astype(np.float16), labels.astype(np.int64))


def random_pens(generator: np.random.Generator, count: int) -> np.ndarray:
    """Draw pen diameters (count,) in pixels over ``PENS``, thin ones more often: mean 2.5, standard
    deviation 0.87.
    """
    thinnest, boldest = PENS
    return thinnest + (boldest - thinnest) * generator.beta(1.5, 2.5, size=count)


def to_images(ink: np.ndarray) -> list[Image.Image]:
    """Convert drawings (B, 32, 32), 0 paper and 1 ink, to RGB images: black on white."""
    grey = np.round(255.0 * (1.0 - np.clip(ink, 0.0, 1.0))).astype(np.uint8)
    return [Image.fromarray(plane).convert("RGB") for plane in grey]


def to_ink(images: list[Image.Image]) -> np.ndarray:
    """Convert images of any size and mode to (B, 32, 32) float32, 0 paper and 1 ink."""
    return 1.0 - drawing.to_array(images, "L")


def requested_digits(prompts: list[str]) -> np.ndarray:
    """Return the digit that each prompt asks for, (B,) int64. Raises ValueError for a prompt that is not one of
    ``PROMPTS``.
    """
    unknown = sorted({prompt for prompt in prompts if prompt not in PROMPTS})
    if unknown:
        raise ValueError(
            f"the demo's scorer knows the prompts {PROMPTS[0]!r} to {PROMPTS[-1]!r}, got "
            f"{unknown[0]!r}: score other prompts with a scorer of your own (module:function)"
        )
    return np.array([PROMPTS.index(prompt) for prompt in prompts], dtype=np.int64)


def _distance_to_centre_line(scan: np.ndarray) -> np.ndarray:
    """Return the distance to the centre line of ``scan`` (8, 8), ink in [0, 1]: (96, 96) in pixels of the
    drawing.
    """
    from scipy import ndimage

    fine = SIZE * _OVERSAMPLING
    padded = np.pad(scan, ((1, 1), (0, 0))).astype(np.float32)
    source_pixel = fine / padded.shape[0]
    ink = np.asarray(Image.fromarray(padded).resize((fine, fine), Image.Resampling.BICUBIC))
    scale = 0.39 * source_pixel  # the smallest blur that hides the scan's own pixel grid
    xx, xy, yy = (
        ndimage.gaussian_filter(ink, scale, order=order) for order in ((0, 2), (1, 1), (2, 0))
    )
    # A ridge of ink is where the more negative eigenvalue of the Hessian is large.
    half_trace = 0.5 * (xx + yy)
    root = np.sqrt(np.maximum(half_trace**2 - (xx * yy - xy**2), 0.0))
    ridge = np.maximum(root - half_trace, 0.0)
    strongest = ndimage.maximum_filter(ridge, round(1.9 * source_pixel))
    nearby = ndimage.gaussian_filter(strongest, 0.47 * source_pixel)
    band = (ridge > 0.55 * nearby) & (ridge > 0.15 * ridge.max()) & (ink > 0.15)
    parts, count = ndimage.label(band)
    area = ndimage.sum_labels(band, parts, index=np.arange(count + 1))
    band &= area[parts] > 4 * _OVERSAMPLING**2  # smaller parts are specks of the scan, not strokes
    outside, inside = (ndimage.distance_transform_edt(mask) for mask in (~band, band))
    # The band is about 1.4 pixels wide: its middle is the centre line, and thinning would break it.
    return np.maximum((outside - inside) / _OVERSAMPLING + 0.7, 0.0)
