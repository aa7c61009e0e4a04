"""Inputs as they are in the middle of a training run: the policy is close to its reference."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tglo import reference

THRESHOLD, CONFIDENCE, TEMPERATURE = 0.5, 5.0, 1e-3

SHAPES = {
    "sdxl": (4, 128, 128),  # 1024 x 1024 pixels, as the next five
    "flux": (16, 128, 128),  # FLUX.1; its transformer's 4096 tokens of 64 are the same numbers
    "sd3": (16, 128, 128),  # and SD3.5
    "z-image": (16, 128, 128),
    "flux2": (128, 64, 64),  # 2 x 2 latents of 32 channels are one
    "sana": (32, 32, 32),
    "qwen-image": (16, 166, 166),  # 1328 x 1328 pixels
    "wan": (16, 21, 60, 104),  # 81 frames of 480 x 832
    "ltx": (128, 21, 16, 22),  # 161 frames of 512 x 704
    "tiny": (4, 16, 16),
}
"""One prediction of each model family, in elements."""


class Size(NamedTuple):
    family: str
    batch: int

    @property
    def name(self) -> str:
        return f"{self.family}-{self.batch}"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.batch, *SHAPES[self.family]

    @property
    def elements(self) -> int:
        return torch.Size(self.shape).numel()


def size_by_name(name: str) -> Size:
    """ "sdxl-8" -> Size("sdxl", 8). ValueError for another family or a batch below 1."""
    family, _, batch = name.rpartition("-")
    if family not in SHAPES or not batch.isdecimal() or int(batch) < 1:
        families = ", ".join(SHAPES)
        raise ValueError(f"size is {name!r}; use FAMILY-BATCH, as in sdxl-8; families: {families}")
    return Size(family, int(batch))


def _sizes(*names: str) -> list[Size]:
    return [size_by_name(name) for name in names]


CPU_SIZES = _sizes(
    *("sdxl-1", "sdxl-4", "sdxl-8", "sdxl-16", "sdxl-32", "sana-8", "flux-1", "flux-4", "flux-8"),
    *("flux2-4", "qwen-image-1", "qwen-image-4", "wan-1"),
)
"""The sizes that two cores finish soon; the CPU target names sdxl-8, and SD3 and Z-Image are as flux."""

GPU_SIZES = _sizes(
    *("wan-8", "sdxl-16", "flux-8", "qwen-image-8", "sdxl-1"),
    *("sdxl-32", "flux-1", "flux2-8", "wan-1"),
)
"""The sizes with targets first, should time run out."""


class Case(NamedTuple):
    """policy (a leaf with a gradient), base (the reference's prediction) and target: (B, ...)."""

    policy: Tensor
    base: Tensor
    target: Tensor
    scores: Tensor  # (B,) float32
    base_error: Tensor  # (B,) float64, the cached error of `base`; see Contender.prepare

    def copy(self) -> Case:
        """Put the same numbers into other memory; the vectors of batch size are shared."""
        return self._replace(
            policy=self.policy.detach().clone().requires_grad_(),
            base=self.base.clone(),
            target=self.target.clone(),
        )


def make_case(
    shape: tuple[int, ...],
    *,
    mse: float = 0.1,
    mean_log_ratio: float = 0.4,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Case:
    """Make a reference whose mean square error is `mse` and a policy that moved from it by a little.

    Half of the samples moved towards the target and half away from it, so that mean abs(r) is about
    `mean_log_ratio` at temperature `TEMPERATURE`; a small random part is added. The same numbers on
    every device.
    """
    random = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(shape, generator=random)

    target = normal()
    base = target + mse**0.5 * normal()
    sign = 1.0 - 2.0 * (torch.arange(shape[0]) % 2).view(-1, *[1] * (len(shape) - 1))
    moved = sign * (mean_log_ratio * TEMPERATURE / (2.0 * mse))
    policy = base + moved * (base - target) + 0.005 * normal()
    scores = torch.rand(shape[0], generator=random).to(device)
    policy, base, target = (tensor.to(device, dtype) for tensor in (policy, base, target))
    error = reference.prediction_error(base, target)
    return Case(policy.requires_grad_(), base, target, scores, error)


class LossOutcome(NamedTuple):
    log_ratio: Tensor  # (B,) r
    gradient: Tensor  # (B, ...) d mean loss / d policy


def truth(case: Case) -> LossOutcome:
    """Compute r and the gradient in float64 by `tglo.reference`."""
    policy = case.policy.detach().double().requires_grad_()
    result = reference.tgo_loss(
        policy,
        case.target.double(),
        case.scores,
        THRESHOLD,
        reference_pred=case.base.double(),
        temperature=TEMPERATURE,
        confidence=CONFIDENCE,
    )
    (gradient,) = torch.autograd.grad(result.loss.mean(), policy)
    return LossOutcome(result.implicit_score.detach(), gradient)


class Errors(NamedTuple):
    log_ratio: float
    """Largest absolute error of r over the batch."""
    gradient: float
    """Largest absolute error of the gradient, over the largest absolute gradient."""


def errors(found: LossOutcome, exact: LossOutcome) -> Errors:
    """Return how far an outcome is from the truth; NaN counts as infinite."""

    def largest(difference: Tensor) -> float:
        return difference.abs().nan_to_num(float("inf")).max().item()

    gradient = largest(found.gradient.double() - exact.gradient)
    return Errors(
        largest(found.log_ratio.double() - exact.log_ratio),
        gradient / exact.gradient.abs().max().item(),
    )
