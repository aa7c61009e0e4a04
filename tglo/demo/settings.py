"""The demo's settings, and the files and commands that state them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tglo.demo import digits

BASE = Path(__file__).parent / "base"
SCORER = "tglo.demo.scorer:score"
GUIDANCE = 1.5
BATCH = 64
EVALUATION_SEED = 1_000_000_000  # far from every training seed: the samples are unseen
SEED_STRIDE = 1_000_000  # between the sampling seeds of two seeds of the demo
LEARNING_RATE = {"tgo": 1e-4, "sft": 3e-4}  # for SFT the best of six from 1e-5 to 1e-3


@dataclass(frozen=True)
class Plan:
    """How much of everything; counts of images are per prompt, of which there are ten."""

    training_images: int = 150
    evaluation_images: int = 60
    sampling_steps: int = 12
    steps: int = 120


QUICK = Plan(training_images=13, evaluation_images=4, sampling_steps=4, steps=6)


def toml(output: Path, objective: str, seed: int, plan: Plan) -> str:
    """The configuration of a run, as a person would write it."""

    def text(path: Path) -> str:
        return json.dumps(str(path))  # a JSON string is a TOML string

    return f"""# Made by `tglo demo`; `tglo train {objective}.toml` repeats the run.
seed = {seed}

[model]
path = {text(BASE)}
train = "full"

[data]
manifest = {text(output / "data" / "scored.csv")}
cache = {text(output / "cache")}
threshold = {text(output / "threshold.json")}

[objective]
name = "{objective}"
temperature = 0.03

[optimizer]
steps = {plan.steps}
micro_batch = {BATCH}
learning_rate = {LEARNING_RATE[objective]}
schedule = "cosine"

[engine]
kind = "plain"
device = "cpu"

[output]
folder = {text(output / objective)}
save_every = {plan.steps}
log_every = {max(1, plan.steps // 40)}
"""


def facts(plan: Plan, seed: int) -> list[str]:
    """What a reader of the report must know to judge its numbers."""
    return [
        f"{10 * plan.training_images:,} training samples of the base model, {plan.steps} steps of "
        f"{BATCH} for SFT and for TGO, {10 * plan.evaluation_images} fresh samples of each model "
        "with seeds that the training set did not use.",
        "s.e.: standard error of the difference of two means, as if the samples were independent. "
        "s.d.: standard deviation of the base model's scores.",
        f"Seed {seed}. Training seeds differ: repeat with --seed 1, 2, ... before you trust a "
        "comparison.",
    ]


def commands(output: Path, seed: int, plan: Plan) -> str:
    """The shell commands that repeat every step on the files of this run."""
    sampling = f"--steps {plan.sampling_steps} --guidance {GUIDANCE} --batch-size {BATCH}"
    return f"""cd {output}
tglo generate --model {BASE} \\
    --prompts data/prompts.txt --output again --count {plan.training_images} \\
    {sampling} --seed {seed * SEED_STRIDE}
tglo score again/manifest.csv --scorer {SCORER} --output again/scored.csv
tglo threshold again/scored.csv --output again/threshold.json
tglo cache --model {BASE} \\
    --manifest again/scored.csv --output again/cache --resolution {digits.SIZE} \\
    --batch-size {BATCH}
tglo train tgo.toml --data.manifest again/scored.csv --data.cache again/cache \\
    --data.threshold again/threshold.json --output.folder again/tgo
tglo generate --model ./again/tgo/export \\
    --prompts data/prompts.txt --output again/evaluation --count {plan.evaluation_images} \\
    {sampling} --seed {EVALUATION_SEED + seed * SEED_STRIDE}
"""
