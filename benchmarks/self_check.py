"""The self-check of every kernel, form by form, each printed when it is known.

    python -m benchmarks.self_check [--device cuda]

Unlike `tglo doctor` it goes on after a form that fails, and keeps nothing; the exit status is 1 if one
did. On the CPU it tries the CPU's kernels, without those of the tokens, which make no 16-bit gradients.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's bytes: NaN equals itself."""
    return tensor.contiguous().flatten().view(torch.uint8)


def try_form(form: Any, triton: bool, device: torch.device) -> tuple[bool, str]:
    """Return whether a form is right, twice with the same bits, and a line about it."""
    start = time.monotonic()
    try:
        first, second = (
            tuple(tensor.cpu() for tensor in form.launch(triton, device)) for _ in range(2)
        )
        figure = form.judge(first)
        good, text = bool(figure.passed), str(figure)
        same = all(torch.equal(bits(a), bits(b)) for a, b in zip(first, second, strict=True))
        if good and not same:
            good, text = False, f"{form.name}: a second call gives other bits"
    except Exception as error:
        good, text = False, f"{form.name}: {type(error).__name__}: {error}"
    return good, f"{text} ({1e3 * (time.monotonic() - start):.0f} ms)"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.self_check", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    device = torch.device(parser.parse_args(arguments).device)
    from tglo.ops import backends
    from tglo.ops.self_check.verdicts import FAMILIES

    tried, wrong = 0, 0
    missing = backends()
    for backend in ("cuda", "triton") if device.type == "cuda" else ("cpu",):
        if missing[backend]:
            print(f"{backend}: not tried, {missing[backend]}")
            wrong += device.type == "cuda"  # a rehearsal's checkout may have no extension
            continue
        forms = [
            form
            for family, make in FAMILIES.items()
            if backend != "cpu" or family != "tokens"
            for form in make()
        ]
        with torch.no_grad():
            for form in forms:
                good, text = try_form(form, backend == "triton", device)
                tried, wrong = tried + 1, wrong + (not good)
                print(f"{backend}: {'ok' if good else 'WRONG'}: {text}", flush=True)
    print(f"{tried} forms tried, {wrong} wrong or not tried")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
