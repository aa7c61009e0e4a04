"""Settings that several commands share, as they travel from flags to the place of their use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]


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

    def resolved(self, size: tuple[int, int]) -> SamplingOptions:
        """Return these options with the height or width of `size` where it is not given."""
        return replace(self, height=self.height or size[0], width=self.width or size[1])

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
        return texts

    def __str__(self) -> str:
        chance = self.choice_temperature
        more = "" if chance is None else f", choice temperature {chance:g}"
        return f"{self.steps} steps, guidance {self.guidance:g}{more}"


@dataclass(frozen=True)
class ReferenceOptions:
    """How the reference of `tglo cache --reference` is computed; a run must compute alike."""

    precision: Precision = "fp32"
    """Precision of the reference, as engine.precision."""
    weights: Literal["fp32", "half"] = "fp32"
    """fp32 as one process trains (autocast), half as DeepSpeed does."""
    attention: str = "default"
    """Attention backend of the reference, as model.attention."""
    compile: Literal["none", "blocks", "whole"] = "none"
    """Compile the reference's forward, as engine.compile."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Order of the reference's convolution weights, as engine.channels_last."""
