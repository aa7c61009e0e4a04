"""The whole chain in Python: sample, score, cache, train with a configuration of dataclasses, read the metrics,
and sample again. It aligns the small model of digits that comes with tglo.

    python examples/train_in_python.py --output digits --count 40 --steps 60
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from tglo import models
from tglo.cache.make import build
from tglo.data.manifest import read_manifest
from tglo.demo import digits, scorer
from tglo.demo.settings import DIFFUSION
from tglo.generation.generate import generate_images
from tglo.rewards.scoring import score_file
from tglo.settings import SamplingOptions
from tglo.train import (
    DataConfig,
    EngineConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    OutputConfig,
    TrainConfig,
    train,
)

BASE = DIFFUSION.base
SAMPLING = SamplingOptions(steps=8, guidance=1.5)


def make_data(folder: Path, count: int) -> Path:
    """Sample `count` images of each prompt from the base model, and score them; returns the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(digits.PROMPTS) + "\n")
    images = folder / "images"
    manifest = generate_images(str(BASE), prompts, images, SAMPLING, count=count, batch_size=64)
    return score_file(manifest, "tglo.demo.scorer:score")


def configuration(folder: Path, manifest: Path, steps: int) -> TrainConfig:
    """Return what a TOML file would say; what is left out has its default."""
    return TrainConfig(
        model=ModelConfig(path=str(BASE), train="full"),
        data=DataConfig(manifest=manifest, cache=folder / "cache"),
        objective=ObjectiveConfig(name="tgo", temperature=0.03),
        optimizer=OptimizerConfig(steps=steps, micro_batch=32, learning_rate=1e-4),
        engine=EngineConfig(kind="plain"),
        output=OutputConfig(folder=folder / "run", log_every=max(1, steps // 20)),
    )


def mean_score(model: str | Path, count: int) -> float:
    """Return the mean score of fresh samples, `count` of each prompt."""
    prompts = [prompt for prompt in digits.PROMPTS for _ in range(count)]
    seeds = [
        1_000_000 + number for number in range(len(prompts))
    ]  # not those of the training images
    images = models.load(model).generate(prompts, seeds, SAMPLING, batch_size=64)
    return float(np.mean(scorer.score(images, prompts)))


def main() -> None:
    """Run the chain, and say what it did to the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40, help="training images of each prompt")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()

    manifest = make_data(options.output, options.count)
    print(f"{len(read_manifest(manifest))} scored images")
    build(str(BASE), manifest, options.output / "cache", resolution=digits.SIZE, batch_size=64)
    result = train(configuration(options.output, manifest, options.steps))
    assert result.export is not None
    for line in (result.folder / "metrics.jsonl").read_text().splitlines()[-3:]:
        metrics = json.loads(line)
        print(f"step {metrics['step']}: loss {metrics['loss']:.4f}")
    count = max(1, options.count // 3)
    before, after = mean_score(Path(BASE), count), mean_score(result.export, count)
    print(f"mean score {before:.3f} before, {after:.3f} after")


if __name__ == "__main__":
    main()
