"""What one contender's result is worth, what memory it takes, and how long all take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.tokens.contenders import (
    Contender,
    Inputs,
    contenders,
    exact_log_prob,
    make_inputs,
    tgo,
)
from tglo.bench.cpu import Spread, spread

ROOT = Path(__file__).resolve().parents[2]


def in_own_process(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`check` of what spec names, {"problem": text} if it failed. Freed memory goes back to the
    system at once: the peak is then what is in use.
    """
    # It finds this folder by itself, and puts it behind an installed package.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tokens", "--check", json.dumps(spec)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment | {"MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"problem": lines[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_named(
    *, task: str, contender: str, size: str, batch: int, dtype: str, device: str, backend: str
) -> dict[str, Any]:
    """`check` of what these name."""
    inputs = make_inputs(size, batch, getattr(torch, dtype), device)
    named = {known.name: known for known in contenders(backend)}
    return check(named[contender], task, inputs)


def check(contender: Contender, task: str, inputs: Inputs) -> dict[str, Any]:
    """peak_bytes: memory above the inputs and the gradients, which all contenders need alike.
    error_value and error_gradient: against float64; see `errors`.
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
    peak = Peak(inputs.hidden.is_cuda)
    value, gradients = contender.run(task, inputs)
    needed = sum(gradient.numel() * gradient.element_size() for gradient in gradients)
    found = {"peak_bytes": peak.read() - needed}
    off, slope_off = errors(task, inputs, value, gradients[0])
    return {**found, "error_value": off, "error_gradient": slope_off, "problem": None}


class Peak:
    """Memory since its making, at the most, in bytes: of the process on the CPU, of torch's
    allocator on a GPU.
    """

    def __init__(self, cuda: bool) -> None:
        self.cuda = cuda
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            self.before = self._status("VmRSS:")
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew

    def read(self) -> int:
        if self.cuda:
            return torch.cuda.max_memory_allocated() - self.before
        return self._status("VmHWM:") - self.before

    @staticmethod
    def _status(field: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"/proc/self/status has no {field}")


def errors(task: str, inputs: Inputs, value: Tensor, gradient: Tensor) -> tuple[float, float]:
    """The largest error of the value, and of the gradient of the hidden states, relative to its
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
    """TGO's loss in float64, and its derivative (B,) in any log-probability of a sample."""
    both = []
    for states in (hidden, inputs.reference_hidden):
        full = torch.zeros(inputs.mask.shape, dtype=torch.float64, device=hidden.device)
        full[inputs.mask] = exact_log_prob(states[inputs.mask], weight, inputs.targets[inputs.mask])
        both.append(full)
    policy = both[0].requires_grad_()
    loss = tgo(policy, both[1], inputs)
    (slopes,) = torch.autograd.grad(loss, policy)
    return loss.detach(), slopes[:, 0]  # a sample's are all equal


def time_all(
    chosen: Sequence[Contender], task: str, inputs: Inputs, rounds: int
) -> dict[str, Spread]:
    """Microseconds of a step, forward and backward; all take turns, so that a change of the
    machine's speed hits all.
    """
    times: dict[str, list[float]] = {contender.name: [] for contender in chosen}
    for number in range(rounds + 1):
        for contender in chosen:
            _wait(inputs)
            start = time.perf_counter()
            contender.run(task, inputs)
            _wait(inputs)
            if number:  # the first round warms up
                times[contender.name].append(1e6 * (time.perf_counter() - start))
    return {name: spread(values) for name, values in times.items()}


def _wait(inputs: Inputs) -> None:
    if inputs.hidden.is_cuda:
        torch.cuda.synchronize()
