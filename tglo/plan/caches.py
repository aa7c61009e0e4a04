"""What a run's embeddings and latents take of the disk."""

from __future__ import annotations

from dataclasses import dataclass

from tglo.data import ragged
from tglo.plan.options import Options
from tglo.plan.sample import Sample

_HALF = 2  # bytes of a number in bf16
_TYPICAL = 60  # tokens of a prompt, assumed where only real tokens are stored


@dataclass(frozen=True)
class Caches:
    """Bytes of a cache; the text's in bf16, of which fp32 takes twice as many."""

    prompt: int
    """Bytes of a prompt; of one of `tokens` tokens, if their number counts."""
    tokens: int | None
    prompts: int
    text: int
    """Bytes of all prompts."""
    image: int
    """Bytes of the latents of an image, or of a clip."""
    clip: bool = False
    """The latents are a clip's."""

    def __str__(self) -> str:
        per = (
            f" of {self.tokens} tokens (assumed; only real ones are stored)" if self.tokens else ""
        )
        sample = "a clip" if self.clip else "an image"
        return (
            f"cache: text in bf16 {self.prompt / 1e6:.3g} MB a prompt{per}, {self.text / 1e9:.3g} GB for "
            f"{self.prompts:,} prompts; fp32 takes twice that; latents {self.image / 1e6:.3g} MB {sample}"
        )


def caches(options: Options, sample: Sample) -> Caches:
    """Work out the cache of a model's images or clips of this size, and of so many prompts as the options say."""
    from tglo.models.registry import skeleton_of

    skeleton = skeleton_of(options.model, options.loading)
    shapes = skeleton.text_shapes().values()
    tokens = _TYPICAL if any(None in shape for shape in shapes) else None
    prompt = int(_HALF * ragged.numbers(shapes, tokens or 0))
    latents = skeleton.stored_bytes(sample.height, sample.width, sample.frames)
    texts = options.prompts * prompt
    return Caches(prompt, tokens, options.prompts, texts, latents, sample.frames is not None)
