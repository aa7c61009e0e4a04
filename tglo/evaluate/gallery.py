"""What a page shows of samples: for each prompt the images of all models beside each other."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from PIL import Image

from tglo.data.images import decode_image
from tglo.evaluate.figures import colour
from tglo.evaluate.samples import ModelSamples
from tglo.pages.render import picture

SIDE = 320  # pixels of a thumbnail's longer side
SHARP = 160
"""Pixels of a side up to which an image is kept as it is, and shown with its pixels' edges."""


@dataclass(frozen=True)
class Piece:
    """An image or video of one model, as a page shows it."""

    model: str
    colour: str
    source: str
    """Its address: inside the page, or a path from its folder."""
    size: tuple[int, int]
    """Width and height in pixels."""
    link: str = ""
    """Path of the whole file from the page's folder; "" where there is none."""
    frames: str = ""
    """Address of a picture with frames of a video beside each other."""

    @property
    def sharp(self) -> bool:
        return max(self.size) <= SHARP


@dataclass(frozen=True)
class Row:
    """A prompt and what the models made of it, under one seed."""

    prompt: str
    pieces: Sequence[Piece]


def rows(samples: ModelSamples, prompts: Sequence[str]) -> list[Row]:
    """Return the first image of each model for these prompts."""
    found = []
    for prompt, place in zip(prompts, samples.rows(prompts), strict=True):
        images, links = {}, {}
        for model, manifest in samples.manifests.items():
            row = samples.image(model, place, 0)
            images[model] = decode_image(manifest.open_image(row))
            links[model] = quote(f"images/{model}/{row.image}")
        found.append(row_of(prompt, images, links=links))
    return found


def row_of(
    prompt: str,
    images: Mapping[str, Image.Image],
    colours: Mapping[str, str] | None = None,
    links: Mapping[str, str] | None = None,
) -> Row:
    """Return a row of these images, by model, each inside the page."""
    chosen = colours or {model: colour(number) for number, model in enumerate(images)}
    return Row(
        prompt,
        [
            Piece(model, chosen[model], thumbnail(image), image.size, (links or {}).get(model, ""))
            for model, image in images.items()
        ],
    )


def thumbnail(image: Image.Image) -> str:
    """Return the address of a small copy inside the page: JPEG, or an image that is small as it is."""
    out = io.BytesIO()
    if max(image.size) <= SHARP:
        image.convert("RGB").save(out, format="PNG", optimize=True)
        return picture(out.getvalue())
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    small.save(out, format="JPEG", quality=82, subsampling=0, optimize=True)
    return picture(out.getvalue(), "image/jpeg")
