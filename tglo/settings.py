"""Settings that several commands share, as they travel from flags to the place of their use."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]
Offload = Literal["none", "model", "blocks"]
"""What waits in host memory: nothing, each part until it is used, or even a part's blocks."""
BaseWeights = Literal["default", "half", "int8", "nf4"]
LongPrompts = Literal["cut", "chunks"]
QUANTIZED = ("int8", "nf4")
"""Those of BaseWeights that need a library."""


@dataclass(frozen=True)
class Limit:
    """The numbers that a setting may be: low to high, without low where `above`, without high where
    `below`. NaN never is; inf is where it is `endless`.
    """

    low: float
    high: float | None = None
    """None: as large as 32 bits hold."""
    above: bool = False
    below: bool = False
    endless: bool = False

    def allows(self, number: float) -> bool:
        """Say whether a number is within."""
        if number == math.inf:
            return self.endless
        high = 2**31 - 1 if self.high is None else self.high
        low_enough = number < high if self.below else number <= high
        return low_enough and (number > self.low if self.above else number >= self.low)

    def __str__(self) -> str:
        if self.high is None:
            return f"at least {self.low:g} and below 2^31"
        if self.above and not self.low:
            return f"positive and at most {self.high:g}"
        high = str(self.high) if isinstance(self.high, int) else f"{self.high:.6g}"
        more = ", or inf" if self.endless else ""
        return f"from {self.low:g} to {'below ' if self.below else ''}{high}{more}"


COUNT = Limit(1)
FRACTION = Limit(0, 1)
SEED = Limit(0, 2**32 - 1)
SIDE = Limit(8, 16384)
"""Of an image, in pixels."""
FRAME_RATE = Limit(0.01, 1000)
"""Frames per second."""
IMAGES = {
    "count": Limit(1, 10**6),
    "batch_size": Limit(0, 10**6),
    "seed": Limit(0, 2**63 - 1),
}
"""Of each prompt; at once, where 0 finds a size; their noise."""
PROMPT_CHUNKS = Limit(2, 16)
SAMPLING = {
    "steps": Limit(1, 999),  # schedules have 1,000, and some leave the last one out
    "guidance": Limit(0, 1000),
    "choice_temperature": Limit(0, 1e6),
    "height": SIDE,
    "width": SIDE,
    "frames": Limit(1, 10**5),
}


def nearest(word: str, known: Collection[str]) -> str:
    """Return a hint at the known words that are like an unknown one, or at all of them."""
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"nearest: {', '.join(near)}" if near else f"valid: {', '.join(known)}"


def check_limits(values: Mapping[str, float | None], limits: Mapping[str, Limit]) -> None:
    """Raise ValueError naming the first of `values` that is out of its limits; None stands for a default."""
    for name, value in values.items():
        if value is not None and not limits[name].allows(value):
            raise ValueError(f"{name} is {value}; it must be {limits[name]}")


@dataclass(frozen=True)
class SamplingOptions:
    """How images are sampled from a model."""

    steps: int = 30
    """Denoising steps."""
    guidance: float = 5.0
    """Classifier-free guidance scale; 1 is off."""
    choice_temperature: float | None = None
    """Of masked models: chance in which tokens a step fixes; 2 by default."""
    height: int | None = None
    """Pixels; the model's own size by default."""
    width: int | None = None
    """Pixels; the model's own size by default."""
    frames: int | None = None
    """Of a video; the model's own number by default."""
    vae_tiling: bool = False
    """Decode what is larger than a tile of the VAE in overlapping tiles: less memory, slightly other pixels."""

    def check(self) -> None:
        """Raise ValueError, before a model is loaded, for what no model can be sampled with."""
        check_limits({name: getattr(self, name) for name in SAMPLING}, SAMPLING)

    def check_sides(self, step: int) -> None:
        """Raise ValueError unless the height and width that are given are multiples of `step` pixels."""
        if (self.height or 0) % step or (self.width or 0) % step:
            raise ValueError(
                f"height {self.height} and width {self.width} must be multiples of {step} pixels"
            )

    def resolved(self, size: tuple[int, int], frames: int | None = None) -> SamplingOptions:
        """Return these options with the height or width of `size`, and with `frames`, where not given."""
        height, width = self.height or size[0], self.width or size[1]
        return replace(self, height=height, width=width, frames=self.frames or frames)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of resolved options."""
        assert self.height and self.width
        return self.height, self.width

    def as_text(self) -> dict[str, str]:
        """Return the settings that images depend on, name -> text.

        Folders of images record them, so a new option is left out where it has its default: folders
        made before it are still accepted.
        """
        texts = {
            "steps": str(self.steps),
            "guidance": str(float(self.guidance)),
            "height": str(self.height or "default"),
            "width": str(self.width or "default"),
        }
        if self.choice_temperature is not None:
            texts["choice_temperature"] = str(float(self.choice_temperature))
        if self.frames is not None:
            texts["frames"] = str(self.frames)
        if self.vae_tiling:
            texts["vae_tiling"] = "on"
        return texts

    def __str__(self) -> str:
        chance = self.choice_temperature
        more = "" if chance is None else f", choice temperature {chance:g}"
        return f"{self.steps} steps, guidance {self.guidance:g}{more}"


@dataclass(frozen=True)
class ModelOptions:
    """How a model is found: the same in cache, training and sampling."""

    model_config: str | None = None
    """Diffusers folder (leading ./ or /) or hub id with what a model in one .safetensors file does not hold:
    tokenizers, configurations, parts that are missing. By default the repository of its family on the hub."""
    variant: str | None = None
    """Weights that are read where a folder or hub model has several, such as fp16; by default the plain ones, and
    where there are none the one variant that there is."""
    long_prompts: LongPrompts = "cut"
    """What is done with prompts beyond a CLIP text encoder's 75 tokens (SD1.x, SD2.x, SDXL): cut them, or encode
    them in chunks of 75."""
    prompt_chunks: int = 3
    """Of long_prompts = chunks: chunks that every prompt has; what is beyond them is cut."""

    @property
    def chunks(self) -> int:
        """Chunks of a prompt."""
        return self.prompt_chunks if self.long_prompts == "chunks" else 1


@dataclass(frozen=True)
class ManifestOptions:
    """How a manifest is read, as the keywords of `tglo.data.manifest.read_manifest`."""

    prompt_column: str = "prompt"
    """The manifest's column of prompts, as data.prompt_column."""
    image_column: str = "image"
    """The manifest's column of images, as data.image_column."""
    score_column: str = "score"
    """The manifest's column of scores, as data.score_column."""
    root: Path | None = None
    """Folder that the images lie in, if not the manifest's, as data.root."""
    score_pattern: str | None = None
    """Where file names of an image folder have their scores, as "*_{score}" for cat_7.5.png; as
    data.score_pattern."""


@dataclass(frozen=True)
class ClipOptions:
    """Which clip is taken of a video, where the model is one of videos."""

    frames: tuple[int, ...] = ()
    """Frames of a clip: the most of these that a video is long enough for; the model's own by default."""
    frame_rate: float | None = None
    """Frames per second of a clip; the model's own by default."""
    clip: Literal["start", "middle"] = "middle"
    """Where in a video its clip lies."""
    source_rate: float | None = None
    """Frames per second of videos that are folders of frames, where the manifest has no frame_rate for them;
    the clip's by default."""

    def resolved(self, frames: int, rate: float) -> ClipOptions:
        """Return these options with a model's own number of frames and rate where they are not given.
        ValueError for rates out of their limits.
        """
        rates = {"frame_rate": self.frame_rate, "source_rate": self.source_rate}
        check_limits(rates, dict.fromkeys(rates, FRAME_RATE))
        frame_rate = rate if self.frame_rate is None else self.frame_rate
        return replace(
            self, frames=tuple(dict.fromkeys(self.frames)) or (frames,), frame_rate=frame_rate
        )


@dataclass(frozen=True)
class FrameOptions:
    """How a scorer of images scores a video."""

    frames: int = 8
    """Frames of a video that are scored, evenly from its first to its last."""
    of_frames: Literal["mean", "worst"] = "mean"
    """A video's score: the mean of its frames' or the worst."""


@dataclass(frozen=True)
class ReferenceOptions:
    """How the reference of `tglo cache --reference` is computed; a run must compute alike."""

    precision: Precision = "fp32"
    """Precision of the reference, as engine.precision."""
    weights: Literal["fp32", "half"] = "fp32"
    """fp32 as one process trains (autocast), half as DeepSpeed does."""
    base_weights: BaseWeights = "default"
    """How the reference's weights are kept, as model.base_weights."""
    attention: str = "default"
    """Attention backend of the reference, as model.attention."""
    compile: Literal["none", "blocks", "whole"] = "none"
    """Compile the reference's forward, as engine.compile."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Order of the reference's convolution weights, as engine.channels_last."""
    lora_reference: Literal["start", "base"] = "start"
    """Whether the reference has the LoRA that training starts from, as model.lora_reference."""
