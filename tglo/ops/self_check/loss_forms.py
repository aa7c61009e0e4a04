"""The calls of the loss that are tried: two launches, one, and the error alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from tglo.ops.layout import memory_mask
from tglo.ops.library import operator
from tglo.ops.results import KernelResult
from tglo.ops.self_check.figures import Figure, Form, Outputs, worst
from tglo.ops.self_check.loss_cases import CONFIDENCE, ROUNDINGS, LossCase, cases

_SCALE = 1.5  # of a reduced loss


def forms() -> Iterator[Form]:
    """Make every form of the loss; of two cases that follow each other, one is reduced."""
    for number, case in enumerate(cases()):
        for kind, (name, launch) in enumerate(_LAUNCHES.items()):
            reduction = ("mean", "none")[(number + kind) % 2]
            outer = _outer(case, reduction)
            form = f"{name}, {case.name}"
            run = partial(launch, case, reduction)
            brief = case.brief and launch is _two_launches  # Triton has no other
            yield Form(form, run, partial(_judge, case, reduction, outer, form), brief)
        if case.predictions.reference_pred is not None:  # else it is the kernel of the cached error
            form = f"prediction_error, {case.name}"
            judge = partial(_judge_error, case, form)
            yield Form(form, partial(_error, case), judge, brief=number == 0)


def _outer(case: LossCase, reduction: str) -> Tensor:
    """Return the gradient of the losses: one number, or (B,) uneven ones."""
    if reduction == "mean":
        return torch.tensor(_SCALE, dtype=torch.float64, device="cpu")
    size = len(case.scoring.scores)
    return torch.linspace(-1.5, 2.0, size, dtype=torch.float64, device="cpu")


def _two_launches(case: LossCase, reduction: str, triton: bool, device: torch.device) -> Outputs:
    tensors, numbers = case.on(device, reduction)
    loss, coefficient, statistics = operator("tgo_loss", triton)(*tensors, *numbers)
    policy, target, mask = tensors[0], tensors[1], tensors[-1]
    outer = _outer(case, reduction).to(device)
    known = outer, coefficient, policy, target, mask, numbers[0], numbers[-2]
    if triton or reduction == "none":
        gradient = operator("tgo_loss_backward", triton)(*known)
    else:  # as where `loss.backward()` brings another factor than the one the forward counted on
        gradient = torch.zeros_like(tensors[0])  # type: ignore[arg-type]
        operator("tgo_loss_rescale_")(gradient, 1.0, *known)
    return _outputs(KernelResult(loss, statistics, len(coefficient)), gradient)


def _one_launch(case: LossCase, reduction: str, triton: bool, device: torch.device) -> Outputs:
    tensors, numbers = case.on(device, reduction)
    scale: tuple[Tensor | None, float] = None, _SCALE  # as the loss's forward gives it
    if reduction == "mean":
        scale = _outer(case, reduction).to(device), 1.0
    run = operator("tgo_loss_and_grad", triton)
    loss, coefficient, statistics, gradient = run(*tensors, *scale, *numbers)
    return _outputs(KernelResult(loss, statistics, len(coefficient)), gradient)


def _outputs(result: KernelResult, gradient: Tensor) -> Outputs:
    loss, score, *errors = result.split()
    return loss, score, gradient, *errors


_LAUNCHES = {"tgo_loss": _two_launches, "loss_and_grad": _one_launch}


def _judge(case: LossCase, reduction: str, outer: Tensor, form: str, found: Outputs) -> Figure:
    truth = case.truth
    loss = truth.loss
    if form.startswith("loss_and_grad"):
        outer = torch.full_like(loss, _SCALE)
    if reduction == "mean":
        outer, loss = outer.expand(len(loss)) / len(loss), loss.mean()
    gradient, errors = case.gradient(outer), _largest(truth.policy_error)
    limits = {
        "loss": (1 + CONFIDENCE) * truth.limit + ROUNDINGS * _largest(loss),
        "implicit score": truth.limit,
        "gradient": (2 * torch.finfo(case.dtype).eps + ROUNDINGS + truth.limit)
        * _largest(gradient),
        "policy error": 4 * ROUNDINGS * errors,
        "reference error": 4 * ROUNDINGS * errors,
    }
    exact = loss, truth.implicit_score, gradient, truth.policy_error, truth.reference_error
    return worst(form, zip(limits, found, exact, limits.values(), strict=True))


def _error(case: LossCase, triton: bool, device: torch.device) -> Outputs:
    given = case.predictions
    weights, inner = (None, 1) if given.mask is None else memory_mask(given.mask, given.policy_pred)
    moved = case.move(given.policy_pred, device), case.move(given.target, device)
    weights = None if weights is None else weights.to(device)
    over_elements = given.mask_mean == "elements"
    return (operator("prediction_error", triton)(*moved, weights, inner, over_elements),)


def _judge_error(case: LossCase, form: str, found: Outputs) -> Figure:
    exact = case.truth.policy_error
    return worst(form, (("error", found[0], exact, 4 * ROUNDINGS * _largest(exact)),))


def _largest(tensor: Tensor) -> float:
    return tensor.abs().max().item()
