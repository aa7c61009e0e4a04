"""Floating-point operations of a step, and calls of operators, counted on tensors without memory.

A multiplication and an addition count as two, as everywhere. What checkpointing computes again does
not count: a rate is of the operations that the result needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step.models import ModelSize
from tglo.models import lora
from tglo.plan.profile import _flash_attention as flash_attention

LORA_RANK = 16


@dataclass(frozen=True)
class Operations:
    """Floating-point operations per sample, or calls of operators for one sample."""

    full: int
    """The denoiser's forward and backward, all weights trained."""
    lora: int
    """The same with a LoRA on its attention."""
    reference: int
    """A forward of the denoiser."""
    vae: int
    """Encoding an image."""
    text: int
    """The text encoders on a prompt."""

    def step(self, train: str, *, reference: bool, online: bool) -> int:
        """Count one sample's step. train: full or lora; reference: whether a reference model predicts;
        online: whether image and prompt are encoded in the step.
        """
        policy = {"full": self.full, "lora": self.lora}[train]
        return policy + reference * self.reference + online * (self.vae + self.text)

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class Calls(TorchDispatchMode):
    """Counts the operators that compute something; views do not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        self.count += not function.is_view
        return function(*arguments, **(named or {}))


def calls(run: Callable[[], object]) -> int:
    """Count the operators that compute something in a run."""
    with Calls() as mode:
        run()
    return mode.count


def count(size: ModelSize) -> Operations:
    """Count the floating-point operations of one sample."""
    return _measured(size, _flops)


def count_calls(size: ModelSize) -> Operations:
    """Count the calls of operators for one sample, attention being one: about as many launches on a GPU, in
    one precision and without a compiler.
    """
    with flash_attention():
        return _measured(size, calls)


def _measured(size: ModelSize, measure: Callable[[Callable[[], object]], int]) -> Operations:
    """Run every part once on the meta device."""
    with torch.device("meta"):
        denoiser, vae = size.make_denoiser(), size.make_vae()
        arguments, pixels = size.example(), torch.empty(1, *size.pixel_shape)

        def policy() -> None:
            denoiser(**arguments).sample.sum().backward()

        full = measure(policy)
        with torch.no_grad():
            reference = measure(lambda: denoiser(**arguments))
            image = measure(lambda: vae.encode(pixels))
            text = 0
            for part in size.text_classes:
                tokens = torch.zeros(1, size.text_tokens(part), dtype=torch.int64)
                text += measure(partial(size.make_text_encoder(part), tokens))
        lora.add(denoiser, LORA_RANK, LORA_RANK, size.lora_targets)
        return Operations(full, measure(policy), reference, image, text)


def _flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
