"""The flags of `tglo demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def demo(
    output: Path = Path("tglo-demo"),
    model: Literal["diffusion", "masked", "flow"] = "diffusion",
    recipe: Literal["published", "tglo"] = "published",
    seed: int = 0,
    quick: bool = False,
) -> None:
    """Align a small digit model end to end on this machine and write a report.

    Args:
        output: Folder for images, caches, runs and the report.
        model: A Stable Diffusion pipeline, an aMUSEd one over masked tokens, or a FLUX one, which matches flows.
        recipe: The settings of TGO, as `recipe` in a training's configuration.
        seed: Seed of everything.
        quick: A few steps only, to see that all works; the result means nothing.
    """
    from tglo.demo.run import run

    run(output, model=model, recipe=recipe, seed=seed, quick=quick)
