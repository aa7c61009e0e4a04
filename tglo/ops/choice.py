"""The one place that chooses a backend: `backend_for` says what runs; what ran is logged once."""

from __future__ import annotations

import importlib.util
import logging
import os

import torch
from torch import Tensor

from tglo.ops.extension import EXTENSION, REINSTALL_WITH_CUDA

logger = logging.getLogger("tglo")

BACKENDS = ("auto", "cuda", "triton", "cpu", "reference")
OPERATORS = ("tgo_loss", "tgo_loss_and_grad", "prediction_error", "diffuse", "token_log_prob")
KERNEL_DTYPES = (torch.bfloat16, torch.float16, torch.float32)

# In the order of preference. The CUDA and Triton kernels have been compiled, and their arithmetic and
# their counters tested on the CPU, but they have not yet run on a GPU: until then they are used only
# where a caller asks for them.
_AUTOMATIC = ("cpu",)
_HAS_TRITON = importlib.util.find_spec("triton") is not None

_forced = os.environ.get("TGLO_BACKEND", "auto")
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
            return (
                f"tglo/_C.so was built without CUDA kernels; {REINSTALL_WITH_CUDA}, "
                "or use backend='auto'"
            )
    if backend == "triton" and not _HAS_TRITON:
        return "triton is not installed; pip install triton, or use backend='auto'"
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
            "too old, or the GPU); use backend='auto'"
            if error
            else ""
        )
    return _device_problems[index]


def _refusal(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """Say why this backend cannot take such tensors, or ""."""
    if backend == "reference":
        return ""
    missing = _missing(backend)
    if missing:
        return missing
    wanted = "cpu" if backend == "cpu" else "cuda"
    if device.type != wanted:
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
    ValueError for unknown names.
    """
    if op not in OPERATORS:
        raise ValueError(f"operator is {op!r}; use one of {', '.join(map(repr, OPERATORS))}")
    check_backend(requested)
    device = torch.device(device)
    if requested == "auto":
        check_backend(_forced)
        requested = _forced
    if requested != "auto":
        refusal = _refusal(requested, device, dtype)
        if refusal:
            raise RuntimeError(f"backend {requested!r} cannot run {op}: {refusal}")
        return requested
    for name in _AUTOMATIC:
        if not _refusal(name, device, dtype):
            return name
    return "reference"


_chosen: dict[tuple[str, torch.device, torch.dtype, str], str] = {}


def choose(op: str, tensor: Tensor, requested: str) -> str:
    """Ask `backend_for` once for each kind of tensor and log the answer. A missing extension is logged
    as a warning: it costs speed that the user did not choose to give up.
    """
    device, dtype = tensor.device, tensor.dtype
    if torch.compiler.is_compiling():
        return backend_for(op, device, dtype, requested)
    key = op, device, dtype, requested
    chosen = _chosen.get(key)  # one look: hashing the key takes longer than all else here
    if chosen is None:
        chosen = _chosen[key] = backend_for(op, device, dtype, requested)
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
        and dtype in KERNEL_DTYPES
    )
    if missed:
        logger.warning("%s, because %s; %s", text, EXTENSION.problem, EXTENSION.remedy)
    else:
        logger.info("%s", text)
