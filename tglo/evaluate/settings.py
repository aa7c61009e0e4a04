"""The settings of an evaluation: models, prompts, scorers, and how images are sampled."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tglo.devices import check_device_name
from tglo.settings import (
    COUNT,
    IMAGES,
    FrameOptions,
    Limit,
    ModelOptions,
    SamplingOptions,
    check_limits,
)

BASE = "base"
_NAME = re.compile(r"\w[\w.+-]*")  # names are file names too


@dataclass(frozen=True)
class Evaluation:
    """One evaluation. Prompts and seeds are the same for every model."""

    base: str
    """Pipeline folder (leading ./ or /) or hub id."""
    models: Mapping[str, str]
    """Name -> pipeline folder, hub id, or a LoRA of the base (leading ./ or /)."""
    prompts: Mapping[str, Path]
    """Name -> file; see tglo.generation.prompts."""
    scorers: Mapping[str, str]
    """Name -> text that tglo.rewards.load_scorer takes."""
    trained_on: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Model -> the scorers that it was trained on."""
    lora: Path | None = None
    """LoRA that the base is sampled with."""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    """Model -> text that it is given before each prompt, as the good marker of objective csft."""
    count: int = 4
    """Images of each prompt."""
    options: SamplingOptions = SamplingOptions()
    batch_size: int = 0
    score_batch: int = 32
    """Images, or frames of videos, that a scorer is given at once."""
    videos: FrameOptions = FrameOptions()
    """How scorers of images score videos."""
    seed: int = 1_000_000_000
    """Seed of samples and bootstrap; another than that of the training images."""
    resamples: int = 2000
    """Resamples of the bootstrap."""
    device: str = "auto"
    dtype: str = "fp32"
    loading: ModelOptions = ModelOptions()

    def check(self) -> None:
        """Raise ValueError, before anything is sampled, for the first setting that cannot be evaluated."""
        bad = [name for name in (*self.models, *self.prompts) if not _NAME.fullmatch(name)]
        if bad:
            raise ValueError(f"names are letters, digits and . + - _, not {bad}")
        if not self.prompts:
            raise ValueError("there is no prompt set; give one as NAME=PATH")
        if BASE in self.models:
            raise ValueError(f"{BASE!r} is the name of --base; give the other model another one")
        if not self.scorers:
            raise ValueError("there is no scorer; give at least one")
        for model, scorers in self.trained_on.items():
            unknown = [name for name in scorers if name not in self.scorers]
            if model not in self.models or unknown:
                raise ValueError(
                    f"trained_on names {model!r} and {list(scorers)}; models are "
                    f"{list(self.models)}, scorers {list(self.scorers)}"
                )
        for model in self.prefixes:
            if model not in self.models:
                raise ValueError(f"prefixes name {model!r}; models are {list(self.models)}")
        limits = {**IMAGES, "score_batch": COUNT, "resamples": Limit(100, 10**6)}
        check_limits({name: getattr(self, name) for name in limits}, limits)
        check_limits({"score_frames": self.videos.frames}, {"score_frames": COUNT})
        self.options.check()
        check_device_name(self.device)

    @property
    def names(self) -> list[str]:
        """The names of all models, the base first."""
        return [BASE, *self.models]


def parse_named(texts: Sequence[str], flag: str, form: str = "NAME=PATH") -> dict[str, str]:
    """Parse "name=path" and its like; returns values by name. Raises ValueError for another form or a
    repeated name.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in found:
            raise ValueError(f"{flag} {text}: write {form}, every name once")
        found[name] = value
    return found


def parse_trained_on(texts: Sequence[str], models: Sequence[str]) -> dict[str, list[str]]:
    """Parse "scorer" (of all models) or "model=scorer"; returns scorers by model."""
    found: dict[str, list[str]] = {}
    for text in texts:
        model, _, scorer = text.partition("=")
        one = model in models
        for name in [model] if one else models:
            found.setdefault(name, []).append(scorer if one else text)
    return found
