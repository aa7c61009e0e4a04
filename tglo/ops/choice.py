"""The one place that chooses a backend: `backend_for` says what runs; what ran is logged once.

On a GPU "auto" takes the first kernels that are right there, as their self-check finds at first use.
"""

from __future__ import annotations

import importlib.util
import logging
import os

import torch
from torch import Tensor

from tglo.ops.extension import EXTENSION, REINSTALL_WITH_CUDA
from tglo.ops.self_check import machine, verdicts

logger = logging.getLogger("tglo")

BACKENDS = ("auto", "cuda", "triton", "cpu", "reference")
OPERATORS = ("tgo_loss", "tgo_loss_and_grad", "prediction_error", "diffuse", "token_log_prob")
KERNEL_DTYPES = (torch.bfloat16, torch.float16, torch.float32)

# The kernels for tensors of a device, in the order of preference.
_KERNELS = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}
_CHECKED = ("cuda", "triton")
_CHECK_FIRST = (
    "inside a trace or a capture, or without free memory, it cannot be: run a step outside first, or "
    "`tglo doctor` once on this machine"
)
REPORT = (
    "please report it with what `tglo doctor` prints; backend='cuda' or 'triton' insists on kernels"
)
_USE_AUTO = "; use backend='auto'"
_OR_AUTO = ", or use backend='auto'"
_HAS_TRITON = importlib.util.find_spec("triton") is not None

_forced = os.environ.get("TGLO_BACKEND") or "auto"
_announced: set[tuple[str, str, torch.dtype, str]] = set()


def check_backend(name: str) -> None:
    """Raise ValueError for a name that is not a backend's."""
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; use one of {', '.join(map(repr, BACKENDS))}")


def backends() -> dict[str, str]:
    """Return every backend with the reason why it cannot run here, or "" if it can."""
    missing = {name: _missing(name) for name in BACKENDS if name != "auto"}
    for name in ("cuda", "triton"):
        if not missing[name] and not torch.cuda.is_available():
            missing[name] = "there is no CUDA device; use backend='auto'"
    if not missing["cuda"]:
        missing["cuda"] = _device_problem(torch.cuda.current_device())
    return missing


def _missing(backend: str) -> str:
    """Say what this installation lacks for a backend, or ""."""
    if backend == "cuda":
        if not EXTENSION.loaded:
            return f"{EXTENSION.problem}; {EXTENSION.remedy}"
        if not EXTENSION.architectures:
            return f"tglo/_C.so was built without CUDA kernels; {REINSTALL_WITH_CUDA}{_OR_AUTO}"
    if backend == "triton" and not _HAS_TRITON:
        return f"triton is not installed; pip install triton{_OR_AUTO}"
    if backend == "cpu" and not EXTENSION.loaded:
        return f"{EXTENSION.problem}; {EXTENSION.remedy}"
    return ""


_device_problems: dict[int, str] = {}


def _device_problem(index: int) -> str:
    """Say why the CUDA kernels do not run on this GPU, or ""; each GPU is asked once."""
    if index not in _device_problems:
        if torch.compiler.is_compiling():  # a launch that fails says why
            return ""
        error = torch.ops.tglo._cuda_error(index)
        built = ", ".join(f"sm_{number}" for number in EXTENSION.architectures)
        _device_problems[index] = (
            f"its kernels for {built} do not run on GPU {index} (CUDA error {error}: the driver is "
            f"too old, or the GPU){_USE_AUTO}"
            if error
            else ""
        )
    return _device_problems[index]


def absent(backend: str, index: int) -> str:
    """Say why a backend cannot run at all on a GPU, or ""."""
    return _missing(backend) or (_device_problem(index) if backend == "cuda" else "")


def _refusal(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """Say why this backend cannot take such tensors, or ""."""
    if backend == "reference":
        return ""
    missing = _missing(backend)
    if missing:
        return missing
    if backend not in _KERNELS.get(device.type, ()):
        wanted = "cpu" if backend == "cpu" else "cuda"
        return f"it takes {wanted} tensors, these are on {device.type}; use backend='auto'"
    if dtype not in KERNEL_DTYPES:
        return f"it takes bfloat16, float16 and float32, these are {dtype}; use backend='reference'"
    if backend == "cuda" and device.index is not None:
        return _device_problem(device.index)
    return ""


def backend_for(
    op: str, device: torch.device | str, dtype: torch.dtype, requested: str = "auto"
) -> str:
    """Return the backend that runs operator `op` on such tensors.

    `requested` other than "auto" is insisted on: RuntimeError with the remedy if it cannot. The
    environment variable TGLO_BACKEND, read when this module is imported, takes the place of "auto".
    "auto" on a GPU that nothing is known of launches the self-check of the kernels, which takes some
    tens of milliseconds for CUDA's and some seconds for Triton's. ValueError for unknown names.
    """
    device = torch.device(device)
    insisted = insisted_backend(op, device, dtype, requested)
    if not insisted and device.type == "cuda" and device.index is None and machine.present():
        device = torch.device("cuda", machine.current())
    return insisted or _automatic(op, device, dtype, None)[0]


def insisted_backend(op: str, device: torch.device, dtype: torch.dtype, requested: str) -> str:
    """Return the backend that the caller or TGLO_BACKEND insists on, or "". Errors are those of
    `backend_for`; nothing is launched.
    """
    if op not in OPERATORS:
        raise ValueError(f"operator is {op!r}; use one of {', '.join(map(repr, OPERATORS))}")
    check_backend(requested)
    if requested == "auto":
        return _forced_backend(op, device, dtype)
    refusal = _refusal(requested, device, dtype)
    if refusal:
        raise RuntimeError(f"backend {requested!r} cannot run {op}: {refusal}")
    return requested


def _forced_backend(op: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return the backend that TGLO_BACKEND insists on, or ""; the remedy of an error is the variable."""
    if _forced not in BACKENDS:
        raise ValueError(
            f"TGLO_BACKEND is {_forced!r}; set it to one of {', '.join(map(repr, BACKENDS))}, or unset it"
        )
    if _forced == "auto":
        return ""
    refusal = _refusal(_forced, device, dtype)
    if refusal:
        refusal = refusal.removesuffix(_OR_AUTO).removesuffix(_USE_AUTO)
        raise RuntimeError(
            f"backend {_forced!r} cannot run {op}: {refusal}; it is TGLO_BACKEND that asks for it: unset "
            "that, or pass another backend"
        )
    return _forced


def _automatic(
    op: str, device: torch.device, dtype: torch.dtype, tensor: Tensor | None
) -> tuple[str, bool]:
    """Return the backend for "auto", and whether it stays so: not where a check is still to come."""
    kernels, settled = _KERNELS.get(device.type, ()), True
    for name in kernels:
        if _refusal(name, device, dtype):
            continue
        trusted = _trusted(name, op, device, tensor) if name in _CHECKED else True
        if trusted:
            break
        settled = settled and trusted is not None
    else:
        name = "reference"
    if kernels and kernels[0] in _CHECKED and name != kernels[0] and dtype in KERNEL_DTYPES:
        _tell(op, device.type, device.index or 0, name)
    return name, settled


def _trusted(backend: str, op: str, device: torch.device, tensor: Tensor | None) -> bool | None:
    """Return whether kernels are right on this GPU; None if nothing is known and nothing can be launched."""
    family, index = verdicts.OF_OPERATOR.get(op), device.index or 0
    if family is None:
        return False
    answer = verdicts.trusted.get((backend, family, index))
    if answer is not None:
        return answer
    if torch.compiler.is_compiling() or not machine.may_launch(tensor):
        return verdicts.known(backend, family, index)
    return verdicts.settle(backend, family, index)


_told: set[str] = set()


@verdicts.constant_in_a_trace
def _tell(op: str, kind: str, index: int, chosen: str) -> bool:
    """Warn, once for each GPU and reason, of kernels that "auto" passes over. That some are absent is no
    reason while others take their place.
    """
    family = verdicts.OF_OPERATOR.get(op)
    if not machine.present() or family is None:
        return False
    reasons, remedies = [], []
    for name in _KERNELS[kind]:
        if name == chosen:
            break
        lacking, found = absent(name, index), verdicts.look_up(name, family, index)
        if lacking:
            if chosen == "reference":
                lacking = lacking.removesuffix(_OR_AUTO).removesuffix(_USE_AUTO)
                reasons.append(f"backend {name}: {lacking}")
        elif found is None:
            reasons.append(f"backend {name} has not been checked there")
            remedies.append(_CHECK_FIRST)
        else:
            reasons.append(f"backend {name} {found}")
            remedies.append(REPORT)
    if reasons:
        where = f"{family} on {verdicts.called(index)}: backend {chosen}, because"
        _warn_once(f"{where} {'; '.join([*reasons, *dict.fromkeys(remedies)])}")
    return bool(reasons)


def _warn_once(text: str) -> None:
    if text not in _told:
        _told.add(text)
        logger.warning("%s", text)


_chosen: dict[tuple[str, torch.device, torch.dtype, str], str] = {}


def choose(op: str, tensor: Tensor, requested: str) -> str:
    """Choose once for each kind of tensor and log the answer. Plain PyTorch in place of kernels is logged
    as a warning: it costs speed that the user did not choose to give up.
    """
    device, dtype = tensor.device, tensor.dtype
    if torch.compiler.is_compiling():
        insisted = insisted_backend(op, device, dtype, requested)
        return insisted or _automatic(op, device, dtype, tensor)[0]
    key = op, device, dtype, requested
    chosen = _chosen.get(key)  # one look: hashing the key takes longer than all else here
    if chosen is None:
        chosen, settled = insisted_backend(op, device, dtype, requested), True
        if not chosen:
            chosen, settled = _automatic(op, device, dtype, tensor)
        if settled:
            _chosen[key] = chosen
        _announce(op, device.type, dtype, requested, chosen)
    return chosen


def _announce(op: str, device: str, dtype: torch.dtype, requested: str, chosen: str) -> None:
    key = op, device, dtype, chosen
    if key in _announced:
        return
    _announced.add(key)
    text = f"{op} on {device} tensors of {dtype}: backend {chosen}"
    missed = (
        chosen == "reference"
        and requested == _forced == "auto"
        and device == "cpu"
        and not EXTENSION.loaded
        and dtype in KERNEL_DTYPES
    )
    if missed:
        logger.warning("%s, because %s; %s", text, EXTENSION.problem, EXTENSION.remedy)
    else:
        logger.info("%s", text)
