"""The accuracy of one contender's result, and the memory that it takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.tokens.contenders import (
    Inputs,
    TokenContender,
    contenders,
    exact_log_prob,
    make_inputs,
    tgo,
)
from tglo.bench.memory import Peak


def check_named(
    *, task: str, contender: str, size: str, batch: int, dtype: str, device: str, backend: str
) -> dict[str, Any]:
    """Call `check` with what these name."""
    inputs = make_inputs(size, batch, getattr(torch, dtype), device)
    named = {known.name: known for known in contenders(backend)}
    return check(named[contender], task, inputs)


def check(contender: TokenContender, task: str, inputs: Inputs) -> dict[str, Any]:
    """Run a contender and return peak_bytes, the memory above the inputs and the gradients, which all
    contenders need alike; error_value and error_gradient, against float64 (see `errors`).
    """
    small = Inputs(
        inputs.hidden.detach()[:1, :8].requires_grad_(),
        inputs.weight,
        inputs.targets[:1, :8],
        inputs.mask[:1, :8] | True,
        inputs.reference_hidden[:1, :8],
        inputs.scores[:1],
        8,
    )
    # Libraries, thread pools and compilers are not what is measured; a compiled shape is one's own.
    compiled = contender.name == "torch.compile"
    contender.run(task, inputs if compiled or inputs.hidden.is_cuda else small)
    peak = Peak(cuda=inputs.hidden.is_cuda)
    value, gradients = contender.run(task, inputs)
    needed = sum(gradient.numel() * gradient.element_size() for gradient in gradients)
    found = {"peak_bytes": peak.read() - needed}
    off, slope_off = errors(task, inputs, value, gradients[0])
    return {**found, "error_value": off, "error_gradient": slope_off, "problem": None}


def errors(task: str, inputs: Inputs, value: Tensor, gradient: Tensor) -> tuple[float, float]:
    """Return the largest error of the value, and of the gradient of the hidden states, relative to its
    largest number; at 256 masked tokens, but for the loss itself.
    """
    places = inputs.mask.nonzero(as_tuple=True)
    every = max(1, len(places[0]) // 256)
    picked = places[0][::every], places[1][::every]
    hidden, weight = inputs.hidden.detach(), inputs.weight.detach()
    if task == "log-prob":
        outer = torch.full((len(picked[0]),), -1.0 / inputs.mask.numel(), device=hidden.device)
    else:
        exact, slopes = _exact_loss(inputs, hidden, weight)
        outer = slopes[picked[0]]
    rows = hidden[picked].double().requires_grad_()
    log_prob = exact_log_prob(rows, weight, inputs.targets[picked])
    (slope,) = torch.autograd.grad(log_prob, rows, outer.double())
    off = value[picked] - log_prob.detach() if task == "log-prob" else value - exact
    gradient_off = (gradient[picked] - slope).abs().max() / slope.abs().max()
    return off.abs().max().item(), gradient_off.item()


def _exact_loss(inputs: Inputs, hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return TGO's loss in float64, and its derivative (B,) in any log-probability of a sample."""
    both = []
    for states in (hidden, inputs.reference_hidden):
        full = torch.zeros(inputs.mask.shape, dtype=torch.float64, device=hidden.device)
        full[inputs.mask] = exact_log_prob(states[inputs.mask], weight, inputs.targets[inputs.mask])
        both.append(full)
    policy = both[0].requires_grad_()
    loss = tgo(policy, both[1], inputs)
    (slopes,) = torch.autograd.grad(loss, policy)
    return loss.detach(), slopes[:, 0]  # a sample's are all equal
