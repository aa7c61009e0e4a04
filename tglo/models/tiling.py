"""Encoding and decoding in overlapping tiles, which a VAE of diffusers blends where they meet.

A pass then takes the memory of one tile. What is near a tile's edge sees less around it, and normalisation over
an image is over a tile, so the result is another one in its bits. Images that fit into a tile are not touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def check_tiling(vae: Any) -> None:
    """Raise ValueError unless the VAE can be tiled."""
    if not hasattr(vae, "use_tiling") or not hasattr(vae, "enable_tiling"):
        raise ValueError(
            f"vae_tiling is on, and {type(vae).__name__} cannot encode or decode in tiles; leave it out"
        )


@contextmanager
def tiled(vae: Any, on: bool) -> Iterator[None]:
    """Let the VAE work in tiles inside, if on; raises what `check_tiling` raises."""
    if not on:
        yield
        return
    check_tiling(vae)
    before = vae.use_tiling
    vae.enable_tiling()
    try:
        yield
    finally:
        vae.use_tiling = before
