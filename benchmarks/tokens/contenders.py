"""Ways to compute the log-probabilities of masked tokens, and TGO's loss on them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tglo import tgo_token_loss, token_log_prob
from tglo.bench.cases import CONFIDENCE, THRESHOLD
from tglo.bench.contenders import eager_tgo

SIZES = {  # tokens of an image, width of the hidden states, vocabulary
    "amused-256": (256, 768, 8192),
    "amused-512": (1024, 768, 8192),
    "meissonic-1024": (4096, 1024, 8192),
    "tiny": (1024, 64, 8192),
}
TASKS = ("log-prob", "loss")
NAMES = ("eager", "torch.compile", "Liger-Kernel", "tglo", "tglo, max_masked")
MASKED = 0.64  # share of masked tokens, the mean of a cosine schedule

LogProb = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Inputs:
    """hidden and reference_hidden (B, N, D), weight (V, D), targets and mask (B, N), scores (B,);
    masked: how many tokens are, as one knows who drew their number.
    """

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    mask: Tensor
    reference_hidden: Tensor
    scores: Tensor
    masked: int

    @property
    def policy(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.hidden, self.weight, self.targets, self.mask


def make_inputs(size: str, batch: int, dtype: torch.dtype, device: str) -> Inputs:
    """Draw inputs whose hidden and weight require gradients. The reference is a policy that moved a little."""
    tokens, width, vocabulary = SIZES[size]
    torch.manual_seed(0)
    hidden = torch.randn(batch, tokens, width)
    weight = 2 * torch.randn(vocabulary, width) / width**0.5
    targets = torch.randint(0, vocabulary, (batch, tokens))
    mask = torch.rand(batch, tokens) < MASKED
    reference = hidden + 0.1 * torch.randn(batch, tokens, width)
    scores = torch.rand(batch, dtype=torch.float64)
    return Inputs(
        hidden.to(device, dtype).requires_grad_(),
        weight.to(device, dtype).requires_grad_(),
        targets.to(device),
        mask.to(device),
        reference.to(device, dtype),
        scores.to(device),
        int(mask.sum()),
    )


def eager(hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Take the cross-entropy of the logits of all tokens."""
    logits = functional.linear(hidden, weight).float().flatten(0, 1)
    labels = targets.masked_fill(~mask, -100).flatten()
    return -functional.cross_entropy(logits, labels, reduction="none").view_as(targets)


@functools.cache
def _compiled() -> LogProb:
    return torch.compile(eager)


def compiled(hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Compute the same by torch.compile."""
    return _compiled()(hidden, weight, targets, mask)


def liger(hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Compute the same by Liger-Kernel, which takes the logits of all tokens, some at a time."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    labels = targets.masked_fill(~mask, -100).flatten()
    loss = LigerFusedLinearCrossEntropyLoss(reduction="none", accum_dtype=torch.float32)
    return -loss(weight, hidden.flatten(0, 1), labels).view_as(targets)


def tgo(log_prob: Tensor, reference: Tensor, inputs: Inputs) -> Tensor:
    """Compute TGO's loss of log-probabilities (B, N) that are 0 where nothing is masked."""
    return eager_tgo((log_prob - reference).sum(1) / inputs.mask.sum(1), inputs.scores)


@dataclass(frozen=True)
class TokenContender:
    """A way to compute either task from `Inputs`. only: the device it can run on, or any."""

    name: str
    log_prob: Callable[[Inputs], Tensor]
    loss: Callable[[Inputs], Tensor]
    only: str | None = None

    def run(self, task: str, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the task's value, (B, N) or 0-d, and the gradients of hidden and weight; those of
        log-probabilities are of minus their mean over all tokens.
        """
        value = (self.log_prob if task == "log-prob" else self.loss)(inputs)
        scalar = -value.sum() / inputs.mask.numel() if task == "log-prob" else value
        gradients = torch.autograd.grad(scalar, (inputs.hidden, inputs.weight))
        return value.detach(), gradients


def _plain(name: str, log_prob: LogProb, *, only: str | None = None) -> TokenContender:
    """Wrap TGO's loss around a function of log-probabilities, the reference's without a gradient."""

    def policy(inputs: Inputs) -> Tensor:
        return log_prob(*inputs.policy)

    def loss(inputs: Inputs) -> Tensor:
        with torch.no_grad():
            reference = log_prob(inputs.reference_hidden, *inputs.policy[1:])
        return tgo(policy(inputs), reference, inputs)

    return TokenContender(name, policy, loss, only)


def _tglo(
    name: str, backend: str, *, bound: bool = False, only: str | None = None
) -> TokenContender:
    """tglo's functions; bound: tell them how many tokens are masked."""

    def log_prob(inputs: Inputs) -> Tensor:
        limit = inputs.masked if bound else None
        return token_log_prob(*inputs.policy, max_masked=limit, backend=backend)

    def loss(inputs: Inputs) -> Tensor:
        return tgo_token_loss(
            *inputs.policy,
            inputs.scores,
            THRESHOLD,
            reference_hidden=inputs.reference_hidden,
            confidence=CONFIDENCE,
            max_masked=inputs.masked if bound else None,
            backend=backend,
        )

    return TokenContender(name, log_prob, loss, only)


def contenders(backend: str) -> list[TokenContender]:
    """Return all of NAMES, first the one that others are compared with. backend: that of tglo."""
    plain, faster, fused, ours, bounded = NAMES
    return [
        _plain(plain, eager),
        _plain(faster, compiled),
        _plain(fused, liger, only="cuda"),
        _tglo(ours, backend),
        _tglo(bounded, backend, bound=True, only="cuda"),
    ]


def exact_log_prob(hidden: Tensor, weight: Tensor, targets: Tensor, rows: int = 1024) -> Tensor:
    """Compute log p(true token) of hidden states (M, D) in float64, some rows at a time."""
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat(
        [
            torch.log_softmax(some.double() @ weight.double().t(), 1).gather(1, true[:, None])[:, 0]
            for some, true in parts
        ]
    )
