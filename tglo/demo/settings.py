"""The demo's settings, and the files and commands that state them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tglo.demo import digits
from tglo.settings import SamplingOptions
from tglo.train.recipes import RECIPES

SCORER = "tglo.demo.scorer:score"
BATCH = 64
EVALUATION_SEED = 1_000_000_000  # far from every training seed: the samples are unseen
SEED_STRIDE = 1_000_000  # between the sampling seeds of two seeds of the demo


@dataclass(frozen=True)
class Amounts:
    """Numbers of images, steps and denoising steps; images are counted per prompt, of which there are ten."""

    training_images: int
    evaluation_images: int
    sampling_steps: int
    steps: int


QUICK = Amounts(training_images=16, evaluation_images=4, sampling_steps=4, steps=6)


@dataclass(frozen=True)
class DemoModel:
    """A base model that ships with the package, and what suits it; learning rates by objective."""

    base: Path
    title: str
    guidance: float
    choice_temperature: float | None
    """The sampler's."""
    temperature: float
    """The loss's."""
    learning_rate: dict[str, float]
    amounts: Amounts
    size: int | None = None
    """Pixels of a side, where the folder does not say."""

    def sampling(self, steps: int) -> SamplingOptions:
        """Return how this model is sampled in so many denoising steps."""
        return SamplingOptions(
            steps, self.guidance, self.choice_temperature, height=self.size, width=self.size
        )


DIFFUSION = DemoModel(
    base=Path(__file__).parent / "base",
    title="A small Stable Diffusion pipeline",
    guidance=1.5,
    choice_temperature=None,
    temperature=0.03,
    learning_rate={"tgo": 1e-4, "sft": 3e-4},  # for SFT the best of six from 1e-5 to 1e-3
    amounts=Amounts(training_images=150, evaluation_images=60, sampling_steps=12, steps=120),
)
MASKED = DemoModel(
    base=Path(__file__).parent / "masked",
    title="A small aMUSEd pipeline for masked tokens",
    guidance=3.0,
    choice_temperature=0.5,  # the pipeline's 2 is for 256 tokens or more; here there are 64
    temperature=1.0,
    learning_rate={"tgo": 2.5e-5, "sft": 3e-5},  # for SFT the best of four from 3e-5 to 1e-3
    amounts=Amounts(training_images=100, evaluation_images=30, sampling_steps=10, steps=120),
)
FLOW = DemoModel(
    base=Path(__file__).parent / "flow",
    title="A small FLUX pipeline",
    guidance=1.0,  # off: like schnell, it has none
    choice_temperature=None,
    temperature=0.3,
    learning_rate={"tgo": 1e-4, "sft": 1e-3},  # for SFT one of three alike, up to 3e-3
    amounts=Amounts(training_images=150, evaluation_images=60, sampling_steps=12, steps=120),
    size=digits.SIZE,
)
MODELS = {"diffusion": DIFFUSION, "masked": MASKED, "flow": FLOW}


@dataclass(frozen=True)
class Demo:
    """One run of the demo."""

    output: Path
    model: DemoModel
    seed: int
    amounts: Amounts
    recipe: str = "published"

    @property
    def baseline(self) -> str:
        """What the threshold is."""
        return str(RECIPES[self.recipe]["data.baseline"])

    @property
    def confidence(self) -> float:
        """The constant c of TGO's weights."""
        return float(RECIPES[self.recipe]["objective.confidence"])


def toml(demo: Demo, objective: str) -> str:
    """Return the configuration of a training, as a person would write it."""
    output, model, amounts = demo.output, demo.model, demo.amounts

    def text(path: Path) -> str:
        return json.dumps(str(path))  # a JSON string is a TOML string

    return f"""# Made by `tglo demo`; `tglo train {objective}.toml` repeats the run.
recipe = "{demo.recipe}"
seed = {demo.seed}

[model]
path = {text(model.base)}
train = "full"

[data]
manifest = {text(output / "data" / "scored.csv")}
cache = {text(output / "cache")}
threshold = {text(output / "threshold.json")}

[objective]
name = "{objective}"
temperature = {model.temperature}

[optimizer]
steps = {amounts.steps}
micro_batch = {BATCH}
learning_rate = {model.learning_rate[objective]}
schedule = "cosine"

[engine]
kind = "plain"
device = "cpu"

[output]
folder = {text(output / objective)}
save_every = {amounts.steps}
log_every = {max(1, amounts.steps // 40)}
"""


_BASELINES = {"percentile": "the median of the scores", "oracle": "each prompt's mean score"}


def facts(demo: Demo) -> list[str]:
    """Return what a reader of the report must know to judge its numbers."""
    amounts = demo.amounts
    quick = ["--quick: a few steps of everything, to see that all works. The numbers mean nothing."]
    return [
        *(quick if amounts == QUICK else []),
        f"{10 * amounts.training_images:,} training samples of the base model, {amounts.steps} steps of "
        f"{BATCH} for SFT and for TGO, {10 * amounts.evaluation_images} fresh samples of each model "
        "with seeds that the training set did not use.",
        "Gains are of the same prompts and seeds, with 95% intervals from a bootstrap over them; those of "
        "shares are Wilson's. s.d.: standard deviation of the base model's scores.",
        f"Recipe {demo.recipe}: the threshold is {_BASELINES[demo.baseline]}.",
        f"Seed {demo.seed}. Training seeds differ: repeat with --seed 1, 2, ... before you trust a "
        "comparison.",
    ]


def commands(demo: Demo) -> str:
    """Return the shell commands that repeat every step on the files of this run."""
    output, model, seed, amounts = demo.output, demo.model, demo.seed, demo.amounts
    sampling = f"--steps {amounts.sampling_steps} --guidance {model.guidance} --batch-size {BATCH}"
    if model.choice_temperature is not None:
        sampling += f" --choice-temperature {model.choice_temperature}"
    if model.size is not None:
        sampling += f" --height {model.size} --width {model.size}"
    return f"""cd {output}
tglo generate --model {model.base} \\
    --prompts data/prompts.txt --output again --count {amounts.training_images} \\
    {sampling} --seed {seed * SEED_STRIDE}
tglo score again/manifest.csv --scorer {SCORER} --output again/scored.csv
tglo threshold again/scored.csv --baseline {demo.baseline} --output again/threshold.json
tglo cache --model {model.base} \\
    --manifest again/scored.csv --output again/cache --resolution {digits.SIZE} \\
    --batch-size {BATCH}
tglo train tgo.toml --data.manifest again/scored.csv --data.cache again/cache \\
    --data.threshold again/threshold.json --output.folder again/tgo
tglo generate --model ./again/tgo/export \\
    --prompts data/prompts.txt --output again/evaluation --count {amounts.evaluation_images} \\
    {sampling} --seed {EVALUATION_SEED + seed * SEED_STRIDE}
"""
