"""Time, peak memory and accuracy of the log-probabilities of masked tokens and their gradients.

    python benchmarks/tokens.py [--size amused-256 meissonic-1024 --batch 1 8 --output tokens.json]

Each contender runs in a process of its own, at each size and batch. "liger" is Liger-Kernel's
LigerFusedLinearCrossEntropyLoss without reduction, which needs a GPU and `pip install liger-kernel`.
The peak is that above the inputs and the gradients, which all contenders need alike: of the resident
memory on the CPU, of torch's allocator on a GPU. Errors against float64 are those of the
log-probability and of the gradient of the hidden states (relative to its largest number) at 256 masked
tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

sys.path.append(str(Path(__file__).parents[1]))

SIZES = {  # tokens, width of the hidden states, vocabulary
    "amused-256": (256, 768, 8192),
    "amused-512": (1024, 768, 8192),
    "meissonic-1024": (4096, 1024, 8192),
    "tiny": (1024, 64, 8192),
}
MASKED = 0.64  # share of masked tokens, the mean of a cosine schedule
CONTENDERS = ("eager", "compile", "liger", "tglo")


def eager(hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the logits of all tokens."""
    logits = functional.linear(hidden, weight).float().flatten(0, 1)
    labels = targets.masked_fill(~mask, -100).flatten()
    return -functional.cross_entropy(logits, labels, reduction="none").view_as(targets)


def liger(hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """The same by Liger-Kernel, which computes the logits of all tokens, some at a time."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    labels = targets.masked_fill(~mask, -100).flatten()
    loss = LigerFusedLinearCrossEntropyLoss(reduction="none", accum_dtype=torch.float32)
    return -loss(weight, hidden.flatten(0, 1), labels).view_as(targets)


def contender_of(name: str, backend: str) -> Callable[..., Tensor]:
    if name == "tglo":
        from tglo import token_log_prob

        return lambda *arguments: token_log_prob(*arguments, backend=backend)
    return {"eager": eager, "liger": liger, "compile": torch.compile(eager)}[name]


def make_inputs(
    size: str, batch: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tokens, width, vocabulary = SIZES[size]
    torch.manual_seed(0)
    hidden = torch.randn(batch, tokens, width).to(device, dtype)
    weight = (2 * torch.randn(vocabulary, width) / width**0.5).to(device, dtype)
    targets = torch.randint(0, vocabulary, (batch, tokens)).to(device)
    mask = (torch.rand(batch, tokens) < MASKED).to(device)
    return hidden.requires_grad_(), weight.requires_grad_(), targets, mask


class Peak:
    """Of the memory since `start`, in bytes."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def start(self) -> None:
        if self.cuda:
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


def errors(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor], value: Tensor, gradient: Tensor, outer: float
) -> tuple[float, float]:
    """Largest errors at 256 masked tokens, each of which depends on its own hidden state alone."""
    hidden, weight, targets, mask = (x.detach() for x in inputs)
    batch, token = (x[:: max(1, len(x) // 256)] for x in mask.nonzero(as_tuple=True))
    rows = hidden[batch, token].double().requires_grad_()
    log_probs = torch.log_softmax(rows @ weight.double().t(), 1)
    truth = log_probs.gather(1, targets[batch, token, None])[:, 0]
    (slope,) = torch.autograd.grad(truth.sum() * outer, rows)
    off = (gradient[batch, token].double() - slope).abs().max() / slope.abs().max()
    return (value[batch, token].double() - truth.detach()).abs().max().item(), off.item()


def measure(
    contender: str, size: str, batch: int, dtype: str, device: str, repeats: int, backend: str
) -> dict[str, float]:
    """Peak bytes, the median of the seconds of `repeats` runs (0: none is timed) and both errors."""
    inputs = make_inputs(size, batch, getattr(torch, dtype), device)
    run, leaves, outer = contender_of(contender, backend), inputs[:2], -1.0 / inputs[3].numel()

    def step(hidden: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        value = run(hidden, inputs[1], targets, mask)
        return value.detach(), torch.autograd.grad(value.sum() * outer, leaves)

    full = inputs[0], inputs[2], inputs[3]
    if contender == "compile":
        step(*full)
    else:  # libraries and thread pools are not what is measured
        step(inputs[0], inputs[2], inputs[3]) if device == "cuda" else _warm(run, inputs)
    peak = Peak(device)
    peak.start()
    value, gradients = step(*full)
    found = {"peak": float(peak.read() - sum(g.numel() * g.element_size() for g in gradients))}
    found["log_prob"], found["gradient"] = errors(inputs, value, gradients[0], outer)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step(*full)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    found["seconds"] = sorted(seconds)[len(seconds) // 2] if seconds else 0.0
    return found


def _warm(run: Callable[..., Tensor], inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    hidden, weight, targets, mask = inputs
    small = hidden.detach()[:1, :8].requires_grad_()
    run(small, weight, targets[:1, :8], mask[:1, :8]).sum().backward()
    weight.grad = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["meissonic-1024"])
    parser.add_argument("--batch", nargs="+", type=int, default=[8])
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backend", default="auto", help="of tglo")
    parser.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, help="all by default; liger on GPUs alone"
    )
    parser.add_argument("--output", type=Path, help="JSON file, written after each contender")
    parser.add_argument("--one", help="this contender alone, in this process, as JSON")
    options: dict[str, Any] = vars(parser.parse_args())
    sizes, batches, one = (options.pop(name) for name in ("size", "batch", "one"))
    contenders, output = options.pop("contenders"), options.pop("output")
    if one:
        print(json.dumps(measure(one, sizes[0], batches[0], **options)))
        return
    contenders = contenders or [
        name for name in CONTENDERS if name != "liger" or options["device"] == "cuda"
    ]
    rows: list[dict[str, Any]] = []
    for size in sizes:
        for batch in batches:
            print(json.dumps({"size": size, "batch": batch, **options}), "torch", torch.__version__)
            for row in _compare(contenders, size, batch, options):
                rows.append({"size": size, "batch": batch, **options, **row})
                if output:
                    _save(output, rows)


def _compare(
    contenders: Sequence[str], size: str, batch: int, options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Print and give what each contender took, or that it failed."""
    flags = {"size": size, "batch": batch, **options}
    command = [sys.executable, __file__, *(f"--{k}={v}" for k, v in flags.items())]
    # freed memory goes back to the system at once: the peak is then what is in use
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    eager: dict[str, float] = {}
    for name in contenders:
        done = subprocess.run(
            [*command, f"--one={name}"], capture_output=True, text=True, env=environment
        )
        if done.returncode:
            problem = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            print(f"{name}: failed: {problem}", flush=True)
            yield {"contender": name, "problem": problem}
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        eager = eager or found
        took = "not timed"
        if found["seconds"]:
            ratio = eager["seconds"] / found["seconds"]
            took = f"{found['seconds']:.4f} s, {ratio:.2f} x as fast as {contenders[0]}"
        print(
            f"{name}: {took}; peak {found['peak'] / 2**20:.0f} MiB, {found['peak'] / eager['peak']:.1%}; errors "
            f"{found['log_prob']:.1e}, {found['gradient']:.1e}",
            flush=True,
        )
        yield {"contender": name, **found}


def _save(output: Path, rows: list[dict[str, Any]]) -> None:
    from tglo.bench import record

    output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": record.describe(), "results": rows}, indent=1, sort_keys=True)
    output.write_text(text + "\n")


if __name__ == "__main__":
    main()
