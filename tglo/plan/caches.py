"""What a run's embeddings and latents take of the disk."""

from __future__ import annotations

from dataclasses import dataclass

from tglo.data import ragged
from tglo.plan.options import Options

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
    """Bytes of the latents of a square image."""

    def __str__(self) -> str:
        per = (
            f" of {self.tokens} tokens (assumed; only real ones are stored)" if self.tokens else ""
        )
        return (
            f"cache: text in bf16 {self.prompt / 1e6:.3g} MB a prompt{per}, {self.text / 1e9:.3g} GB for "
            f"{self.prompts:,} prompts; fp32 takes twice that; latents {self.image / 1e6:.3g} MB an image"
        )


def caches(options: Options, resolution: int) -> Caches:
    """Work out the cache of a model's images of this resolution, and of so many prompts as the options say."""
    from tglo.models.registry import skeleton_of

    skeleton = skeleton_of(options.model)
    shapes = skeleton.text_shapes().values()
    tokens = _TYPICAL if any(None in shape for shape in shapes) else None
    prompt = int(_HALF * ragged.numbers(shapes, tokens or 0))
    image = skeleton.stored_bytes(resolution, resolution)
    return Caches(prompt, tokens, options.prompts, options.prompts * prompt, image)
