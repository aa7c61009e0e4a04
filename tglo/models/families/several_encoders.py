"""Families whose prompts go through several text encoders."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

from tglo.models.families.model import Model, Tensors


class SeveralEncoders(Model):
    """Each text encoder sees the prompts alone, and what they made is put together at the end: so one can be
    freed before the next is loaded.
    """

    @abstractmethod
    def encode_with(self, number: int, prompts: Sequence[str]) -> Tensors:
        """Return what the text encoder with that number makes of B prompts, each tensor (B, ...)."""

    @abstractmethod
    def combine(self, parts: Sequence[Tensors]) -> Tensors:
        """Return the embeddings, as of `text`, from what each of the text encoders made."""

    def text(self, prompts: Sequence[str]) -> Tensors:
        """See Model.text."""
        numbers = range(len(self.text_parts))
        return self.combine([self.encode_with(number, prompts) for number in numbers])

    def texts(self, batches: Sequence[Sequence[str]]) -> Iterator[Tensors]:
        """See Model.texts; begins with the encoder that the last call ended with."""
        numbers = range(len(self.text_parts))
        made: dict[int, list[Tensors]] = {}
        for number in sorted(numbers, key=lambda n: not self.text_at_hand(n)):
            made[number] = [_on_cpu(self.encode_with(number, batch)) for batch in batches]
            made[number].reverse()
        for _ in batches:
            yield self.combine([made[number].pop() for number in numbers])


def _on_cpu(tensors: Tensors) -> Tensors:
    return {name: tensor.cpu() for name, tensor in tensors.items()}
