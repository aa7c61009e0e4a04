"""The worlds of the study: a base model, its prompts, its rewards and its judge, and the amounts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from examples.study import handwriting
from examples.study.methods import OF_DIGITS, OF_SHAPES, Changes, Method
from tglo.demo import classifier
from tglo.demo.settings import FLOW
from tglo.settings import SamplingOptions
from tglo.shapes import BASE, drawing, reader, rewards, scenes

Scores = NDArray[np.float64]
Scorer = Callable[[list[Image.Image], list[str]], Scores]
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "study"
STARS = "stars"
"""The reward of a simulated person, in every world."""


@dataclass(frozen=True)
class Size:
    """The amounts of a study."""

    prompts: int = 256
    """Training prompts of the pool."""
    images: int = 4
    """Images of each training prompt."""
    used: int = 512
    """Images of the pool that a run trains on, unless an ablation says otherwise."""
    steps: int = 80
    batch: int = 32
    draws: int = 4
    """Cached draws of each sample, stratified."""
    evaluation: int = 64
    """Images of each set of the evaluation: of a prompt each, where the world has so many."""
    sampling_steps: int = 12
    guidance: float = 2.0
    seeds: int = 5
    each: int | None = None
    """Images of each prompt that a run trains on; None is all of the pool's."""

    @property
    def usual_each(self) -> int:
        return self.images if self.each is None else self.each


@dataclass(frozen=True)
class World:
    """What a study is about. Functions in it are of modules, so that processes can be sent it."""

    name: str
    base: Path
    """The base model's folder."""
    sets: tuple[str, ...]
    """The evaluation's sets of prompts; "train" and "validation" are beside them."""
    prompt_set: Callable[[str, int], list[str]]
    """From a set's name and a number to prompts; one that comes twice has two images."""
    rewards: Mapping[str, Scorer]
    """What is trained on."""
    judge: Scorer
    """Its verdict is called accuracy, and no reward uses it."""
    rate: Callable[[list[Image.Image], list[str], float], Scores]
    """The simulated person behind the reward "stars", with an error in stars."""
    tuning_rewards: tuple[str, ...]
    """What a setting is judged by before the comparison of tuned methods; without them there is only the front."""
    methods: Mapping[str, Method]
    sizes: Mapping[str, Size]
    seconds: Mapping[str, float]
    """By stage, what a job takes on one core, and what `--plan` reckons with."""
    defaults: Changes
    """What all jobs have in their training configuration."""
    networks: Mapping[str, Path]
    """Files that rewards and judge are of."""
    caption_dropout: float = 0.1
    resolution: int = drawing.SIZE
    pixels: int | None = None
    """A sample's side, where the base's folder does not say."""
    amounts: str = "cpu"
    """Which of the sizes."""
    other_rewards: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Rewards made from others (examples/study/made.py), and whose mean gain is theirs."""
    other_methods: tuple[str, ...] = ()
    """Those that are trained on them."""
    prefix: str = ""
    """Before the names of its parts of docs/study.md."""

    @property
    def size(self) -> Size:
        return self.sizes[self.amounts]

    def of_size(self, name: str) -> World:
        """Return the world with the amounts of that name."""
        return replace(self, amounts=name)

    @property
    def fronts(self) -> tuple[str, ...]:
        """The methods whose whole grids are run."""
        return tuple(name for name, method in self.methods.items() if method.front)

    @property
    def sampling(self) -> SamplingOptions:
        steps, guidance = self.size.sampling_steps, self.size.guidance
        return SamplingOptions(steps, guidance, height=self.pixels, width=self.pixels)

    @property
    def record(self) -> Path:
        """The results that are kept with the project."""
        return RESULTS / f"{self.name}.json"

    @property
    def picture(self) -> str:
        """The name of the picture of its front."""
        return "study-front.png" if not self.prefix else f"study-front-{self.name}.png"

    def rater(self, error: float) -> Scorer:
        """Return the simulated person with another error."""

        def stars(images: list[Image.Image], prompts: list[str]) -> Scores:
            return self.rate(images, prompts, error)

        stars.__qualname__ = f"stars with an error of {error:g}"
        return stars

    def scorers(self) -> dict[str, Scorer]:
        """Return what samples are evaluated by: the rewards, and the judge's accuracy.

        Of stars, what the person means: the errors made in training would only blur the comparison.
        """
        return {**self.rewards, "accuracy": self.judge, STARS: self.rater(0.0)}


_SCORING: Changes = {
    "data.percentile": 50.0,
    "data.score_scale": "std",  # the rewards have units of their own
    "objective.confidence": 5.0,
}
SHAPES = World(
    name="shapes",
    base=BASE,
    sets=("seen", "unseen", "paraphrases"),
    prompt_set=scenes.prompt_set,
    rewards={name: getattr(rewards, name) for name in rewards.NAMES},
    judge=rewards.accuracy,
    rate=rewards.rate,
    tuning_rewards=("faithfulness", STARS),
    methods=OF_SHAPES,
    sizes={
        "cpu": Size(),
        "gpu": Size(768, 8, 3072, 400, 64, 8, 512, 30, 2.0, 5),
        "quick": Size(8, 4, 16, 2, 4, 2, 4, 2, 2.0, 2),
    },
    # Tuning has fewer prompts.
    seconds={"tuning": 15, "grids": 22, "methods": 22, "other rewards": 22, "ablations": 22},
    defaults={
        **_SCORING,
        # Words that the frozen text encoder knows.
        "objective.csft.good_marker": "there ",
        "objective.csft.bad_marker": "with ",
    },
    networks=reader.FILES,
    other_rewards={
        "mixture": ("faithfulness", "vividness", "symmetry"),
        "learned": (STARS,),  # what its raters have in common
    },
    other_methods=("TGO", "TGO oracle", "KTO", "QRPO", "DPO"),
)
DIGITS = World(
    name="digits",
    base=FLOW.base,
    sets=("digits",),
    prompt_set=handwriting.prompt_set,
    rewards={name: getattr(handwriting, name) for name in ("bold", "slant", STARS)},
    judge=handwriting.accuracy,
    rate=handwriting.rate,
    tuning_rewards=(),  # the front chooses among the settings of its grids
    methods=OF_DIGITS,
    sizes={
        "cpu": Size(10, 60, 520, 60, 32, 4, 300, 8, FLOW.guidance, 5, each=52),
        "gpu": Size(10, 360, 3120, 400, 64, 8, 2000, 30, FLOW.guidance, 5, each=312),
        "quick": Size(10, 5, 40, 2, 8, 2, 20, 2, FLOW.guidance, 2, each=4),
    },
    seconds={"grids": 7},
    defaults=_SCORING,
    networks={"reader": classifier.READER},
    caption_dropout=0.0,  # as in the base's training: without guidance there is no empty caption
    pixels=FLOW.size,
    prefix="digits-",
)
WORLDS = {world.name: world for world in (SHAPES, DIGITS)}
