"""Builds and pre-trains a base model that ships with tglo, from a checkout's root:

    python -m examples.pretraining digits [--output FOLDER]    # tglo/demo/base
    python -m examples.pretraining masked-digits               # tglo/demo/masked
    python -m examples.pretraining flow-digits                 # tglo/demo/flow, on the VAE of tglo/demo/base
    python -m examples.pretraining shapes                      # tglo/shapes/base
    python -m examples.pretraining moving-digits               # examples/moving_digits/wan

Each takes 20 to 30 minutes on two CPU cores, the last less; the same seed gives the same weights on the
same machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

# The installed package, which has the extension, comes before the source folder.
sys.path.append(sys.path.pop(0))

from examples.pretraining import digits, moving, shapes
from examples.pretraining.training import pretrain

RECIPES = {
    "digits": digits.DIFFUSION,
    "masked-digits": digits.MASKED,
    "flow-digits": digits.FLOW,
    "shapes": shapes.RECIPE,
    "moving-digits": moving.RECIPE,
}


def main() -> None:
    """Train the model, print what it reached, and keep that in its folder as pretrain.json."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.pretraining",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", choices=RECIPES)
    parser.add_argument("--output", type=Path, help="folder to create; default: where it ships")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae-steps", type=int, help="default: those of the shipped model")
    parser.add_argument("--steps", type=int, help="default: those of the shipped model")
    given = parser.parse_args()
    recipe = RECIPES[given.model]
    output: Path = given.output or recipe.folder
    if output.exists():
        raise SystemExit(f"{output} exists: remove it, or name another folder with --output")
    output.parent.mkdir(parents=True, exist_ok=True)  # known now and not after the training
    reached = pretrain(
        recipe,
        output,
        seed=given.seed,
        vae_steps=recipe.vae_steps if given.vae_steps is None else given.vae_steps,
        steps=recipe.steps if given.steps is None else given.steps,
    )
    text = json.dumps(reached, indent=2)
    (output / "pretrain.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
