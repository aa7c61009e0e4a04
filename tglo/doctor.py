"""Reports what is on this machine, the backend of each operator, and the remedy for what is missing.

On a GPU the kernels are checked anew, whatever is known of them. Versions come from package metadata.
Nothing but torch is imported, and nothing raises when something is absent.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from typing import Literal, NamedTuple

from tglo import plugins
from tglo.console.extras import install
from tglo.console.verbosity import show
from tglo.console.versions import installed, is_bare
from tglo.redaction import redacted

Status = Literal["ok", "missing", "problem"]

# Distribution, supported range, purpose, and the extra that installs it.
PACKAGES = (
    ("torch", ">=2.11,<2.14", "everything", ""),
    ("numpy", ">=2", "everything", ""),
    ("triton", ">=3.6", "torch.compile and the Triton kernels on a GPU", ""),
    ("diffusers", ">=0.42,<0.43", "model families", "train"),
    ("transformers", ">=5.17,<6", "text encoders and reward models", "train"),
    ("ftfy", ">=6.3,<7", "prompts of the rewards hpsv2 and clip", "rewards"),
    ("peft", ">=0.21,<0.22", "LoRA", "train"),
    ("deepspeed", ">=0.19.8,<0.20", "training on several processes", "train"),
    ("xformers", ">=0.0.35", "another attention on a GPU; optional", "xformers"),
    ("bitsandbytes", ">=0.50", "8-bit AdamW, int8 and nf4 weights; optional", "bnb"),
)


# Group of other packages' entry points -> the module with tglo's own; the command line is there already.
PLUGGED = {
    "tglo.families": "tglo.models.registry",
    "tglo.objectives": "tglo.objectives",
    "tglo.rewards": "tglo.rewards",
    "tglo.commands": "",
}


class Finding(NamedTuple):
    """One line of the report; `remedy` is empty when there is nothing to do."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def _release(version: str) -> list[int]:
    """Return a version's numbers without zeros at the end: "2.10.0+cpu" -> [2, 10], equal to "2.10"."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(number) for number in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


def _inside(version: str, limits: str) -> bool:
    mine = _release(version)
    return all(
        mine >= _release(limit[2:]) if limit.startswith(">=") else mine < _release(limit[1:])
        for limit in limits.split(",")
    )


def _package(name: str, limits: str, purpose: str, extra: str) -> Finding:
    remedy = install(extra) if extra else f'pip install "{name}{limits}"'
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "missing", f"not installed; for {purpose}", remedy)
    if _inside(version, limits):
        return Finding(name, "ok", version)
    return Finding(name, "problem", f"{version} is outside {limits}", remedy)


def _python() -> Finding:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("Python", "ok", detail)


def _extension() -> Finding:
    import torch

    from tglo.ops import EXTENSION
    from tglo.ops.extension import REINSTALL_WITH_CUDA

    if not EXTENSION.loaded and is_bare():
        why = f"left out when tglo {installed()} was installed"
        return Finding("extension", "missing", f"{why}; the loss runs on plain PyTorch")
    if not EXTENSION.loaded:
        detail = f"{EXTENSION.problem}; the loss runs on plain PyTorch"
        return Finding("extension", "problem", detail, EXTENSION.remedy)
    cuda = ", ".join(f"sm_{number}" for number in EXTENSION.architectures)
    more = f"CUDA kernels for {cuda}" if cuda else "no CUDA kernels"
    detail = f"{EXTENSION.path}: {EXTENSION.instructions} kernels, {more}"
    wanted = torch.version.cuda is not None and not cuda
    return Finding("extension", "ok", detail, REINSTALL_WITH_CUDA if wanted else "")


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("GPU", "ok", f"{', '.join(names)} (CUDA {torch.version.cuda})")
    if torch.version.cuda is None:
        why = "this torch is a CPU build"
        remedy = "with an NVIDIA GPU, install a CUDA build of torch: https://pytorch.org"
    else:
        why = f"torch is built for CUDA {torch.version.cuda} but sees no device"
        remedy = "check nvidia-smi and CUDA_VISIBLE_DEVICES"
    return Finding("GPU", "missing", f"{why}; everything runs on the CPU", remedy)


def _nvcc() -> Finding:
    folder = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    path = shutil.which("nvcc") or (folder and shutil.which("nvcc", path=f"{folder}/bin"))
    if not path:
        return Finding("nvcc", "missing", "not found; needed only to compile CUDA code")
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10)
        release = [line for line in done.stdout.splitlines() if "release" in line]
        detail = release[0].split("release")[1].split(",")[0].strip() if release else "unknown"
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("nvcc", "problem", f"{path} does not run: {error}")
    return Finding("nvcc", "ok", f"{detail} at {path}")


def _forced() -> Finding | None:
    value = os.environ.get("TGLO_BACKEND")
    if not value:
        return None
    from tglo.ops import BACKENDS

    if value in BACKENDS:
        return Finding("TGLO_BACKEND", "ok", f"{value} takes the place of 'auto'")
    remedy = f"set it to one of {', '.join(BACKENDS)}, or unset it"
    return Finding("TGLO_BACKEND", "problem", f"{value!r} is no backend", remedy)


def _operator(op: str, device: str) -> Finding:
    import torch

    from tglo.ops import backend_for, backends

    name = f"{op} on {device}"
    try:
        kernels = backend_for(op, device, torch.bfloat16)
        wide = backend_for(op, device, torch.float64)
    except (RuntimeError, ValueError) as error:
        return Finding(name, "problem", str(error))
    detail = f"{kernels} for bfloat16, float16, float32; {wide} for float64"
    if device == "cuda":
        missing = backends()
        asked = [n for n in ("cuda", "triton") if n != kernels and not missing[n]]
        if asked:
            detail += f"; on request backend={' or '.join(map(repr, asked))}"
    return Finding(name, "ok", detail)


def _self_check() -> Iterator[Finding]:
    """Check the kernels on every GPU; say all of the first one, and of the others what is wrong."""
    from tglo.ops.choice import REPORT, absent
    from tglo.ops.self_check import machine, verdicts

    if not machine.present():
        return
    if verdicts.skipped():
        yield Finding("self-check", "missing", "TGLO_SELF_CHECK=0: kernels are trusted unseen")
        return
    for index in range(machine.count()):
        for backend in ("cuda", "triton"):
            if absent(backend, index):
                continue
            for family in verdicts.FAMILIES:
                name = f"{family} by {backend} on GPU {index}"
                found = verdicts.examine(backend, family, index)
                if found.passed:
                    yield Finding(name, "ok", str(found))
                for figure in found.figures:
                    if not figure.passed:
                        yield Finding(name, "problem", str(figure), REPORT)
                    elif index == 0:
                        yield Finding(name, "ok", str(figure))


def _plugins() -> Iterator[Finding]:
    """Import what other packages offer; imports none of tglo's registries where nothing is offered."""
    for group, home in PLUGGED.items():
        offers = plugins.offered(group)
        if offers and home:
            importlib.import_module(home)
        for name in offers:
            problem = plugins.groups[group].problem(name) if group in plugins.groups else ""
            label = f"{plugins.NOUNS[group]} {name}"
            detail = problem or ", ".join(entry.value for entry in offers[name])
            yield Finding(label, "problem" if problem else "ok", detail)


def report() -> list[Finding]:
    """Return every finding, most basic first. A check that fails becomes a finding of its own."""
    from tglo.ops import OPERATORS

    checks: list[tuple[str, Callable[[], Finding | Iterator[Finding] | None]]] = [
        ("Python", _python),
        *((package[0], partial(_package, *package)) for package in PACKAGES),
        ("plugins", _plugins),
        *(("extension", _extension), ("GPU", _gpu), ("nvcc", _nvcc), ("TGLO_BACKEND", _forced)),
        ("self-check", _self_check),
        *(
            (f"{op} on {device}", partial(_operator, op, device))
            for op in OPERATORS
            for device in ("cpu", "cuda")
        ),
    ]
    findings: list[Finding] = []
    for name, check in checks:
        try:
            found = check()
            if isinstance(found, Finding):
                findings.append(found)
            elif found is not None:
                findings.extend(found)
        except Exception as error:  # a report about a broken machine must not break itself
            findings.append(Finding(name, "problem", f"{type(error).__name__}: {error}"))
    return findings


def print_report() -> list[Finding]:
    """Print the findings of `report` as a table, with each remedy below its line; returns them."""
    findings = report()
    width = max(len(finding.name) for finding in findings)
    show(f"tglo {installed()}")
    for finding in findings:
        show(redacted(f"{finding.name:<{width}}  {finding.status:<7}  {finding.detail}"))
        if finding.remedy:
            show(redacted(f"{'':<{width}}           -> {finding.remedy}"))
    return findings
