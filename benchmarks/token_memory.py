"""Peak memory of a token loss and its gradient on the CPU, beside eager PyTorch.

    python benchmarks/token_memory.py [--batch 8 --tokens 4096 --width 1024 --vocabulary 8192]

Each contender runs in a process of its own. What is measured is the peak of the resident memory above
that of the inputs and the gradients, which both contenders need alike.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch.nn import functional

sys.path.append(str(Path(__file__).parents[1]))

CONTENDERS = ("eager", "tglo")


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure(contender: str, batch: int, tokens: int, width: int, vocabulary: int) -> int:
    """Peak bytes above inputs and gradients; 64% of the tokens are masked."""
    torch.manual_seed(0)
    hidden = torch.randn(batch, tokens, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    with torch.no_grad():
        weight /= width**0.5
    targets = torch.randint(0, vocabulary, (batch, tokens))
    mask = torch.rand(batch, tokens) < 0.64

    def loss(hidden: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if contender == "tglo":
            from tglo import token_log_prob

            return -token_log_prob(hidden, weight, targets, mask).sum() / mask.sum()
        logits = functional.linear(hidden, weight).float()
        targets = targets.masked_fill(~mask, -100)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    # libraries and thread pools are not what is measured
    loss(hidden[:1, :8], targets[:1, :8], mask[:1, :8]).backward()
    hidden.grad, weight.grad = torch.zeros_like(hidden) + 0.0, torch.zeros_like(weight) + 0.0
    gradients = hidden.grad, weight.grad  # kept resident
    before = _status("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    found = torch.autograd.grad(loss(hidden, targets, mask), (hidden, weight))
    for kept, one in zip(gradients, found, strict=True):
        kept += one
    return _status("VmHWM:") - before - sum(g.numel() * g.element_size() for g in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"batch": 8, "tokens": 4096, "width": 1024, "vocabulary": 8192}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--contender", choices=CONTENDERS, help="this one alone, in this process")
    options = vars(parser.parse_args())
    contender = options.pop("contender")
    if contender:
        print(measure(contender, **options))
        return
    peaks = {}
    for contender in CONTENDERS:
        command = [sys.executable, __file__, "--contender", contender]
        command += [f"--{name}={value}" for name, value in options.items()]
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        peaks[contender] = int(done.stdout)
        print(f"{contender}: {peaks[contender] / 2**20:.0f} MiB above inputs and gradients")
    print(f"tglo / eager: {100 * peaks['tglo'] / peaks['eager']:.1f}%")


if __name__ == "__main__":
    main()
