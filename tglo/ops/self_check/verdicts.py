"""Whether the kernels of a backend are trusted on a GPU: known to this process, on disk, or found out.

Finding out is a few small calls, each compared with float64 on the CPU, the first time that a process
chooses a backend for a kind of kernel on a GPU that nothing is known of. It happens in this process: a child would
take seconds and memory for a CUDA context of its own, and is refused by a GPU in exclusive mode. The
price is that kernels which break the context end this process; the record on disk keeps the next one
from them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch

from tglo.ops.self_check import loss_forms, machine, noise_forms, record, token_forms
from tglo.ops.self_check.figures import Figure, Form, Outputs, same_bits

FAMILIES: dict[str, Callable[[], Iterator[Form]]] = {
    "loss": loss_forms.forms,
    "noise": noise_forms.forms,
    "tokens": token_forms.forms,
}
"""Kinds of kernels, each checked when it is first used."""
OF_OPERATOR = {
    "tgo_loss": "loss",
    "tgo_loss_and_grad": "loss",
    "prediction_error": "loss",
    "diffuse": "noise",
    "token_log_prob": "tokens",
}
"""The kind of kernels behind an operator. One that is not listed is not trusted on a GPU."""


class BrokenDevice(RuntimeError):
    """The kernels left the GPU unusable for this process."""


class Verdict(NamedTuple):
    """What a check found."""

    figures: tuple[Figure, ...]
    date: str = ""
    """When, if it was read from disk."""

    @property
    def passed(self) -> bool:
        """Say whether every form is right."""
        return all(figure.passed for figure in self.figures)

    def __str__(self) -> str:
        failed = [figure for figure in self.figures if not figure.passed]
        if not failed:
            return f"passed {len(self.figures)} forms"
        more = f", and {len(failed) - 1} more of {len(self.figures)} forms" if failed[1:] else ""
        when = f" (found {self.date}; `tglo doctor` checks again)" if self.date else ""
        return f"failed its self-check: {failed[0]}{more}{when}"


_Function = TypeVar("_Function", bound=Callable[..., Any])
_Key = tuple[str, str, int]
trusted: dict[_Key, bool] = {}
"""(backend, family, GPU) -> what an eager call has settled. Plain, because torch.compile reads it and
compiles again when it changes."""
_verdicts: dict[_Key, Verdict] = {}
_lock = threading.RLock()


def skipped() -> bool:
    """Say whether the environment asks to trust all kernels; ValueError for what says neither."""
    value = os.environ.get("TGLO_SELF_CHECK", "1")
    if value not in ("0", "1"):
        raise ValueError(f"TGLO_SELF_CHECK is {value!r}; set it to 0 or 1, or unset it")
    return value == "0"


def constant_in_a_trace(function: _Function) -> _Function:
    """Let torch.compile run a function and take its answer as a constant. What
    torch.compiler.assume_constant_result does, without importing the compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_in_a_trace
def known(backend: str, family: str, index: int) -> bool | None:
    """Return whether kernels are trusted, as far as this process or the disk knows: None if neither does.

    Launches nothing.
    """
    if not machine.present():
        return False
    if skipped():
        return True
    found = look_up(backend, family, index)
    return None if found is None else found.passed


def look_up(backend: str, family: str, index: int) -> Verdict | None:
    """Return what this process or the disk knows of a check."""
    key = backend, family, index
    if key not in _verdicts and (found := record.read(backend, family, index)):
        _verdicts[key] = Verdict(*found)
    return _verdicts.get(key)


def settle(backend: str, family: str, index: int) -> bool | None:
    """Return whether kernels are trusted, by a check if nothing is known; None if there was no memory
    for it. BrokenDevice if the check has ended all work on the GPU.
    """
    key = backend, family, index
    with _lock:
        answer = known(*key)
        if answer is None:
            try:
                answer = examine(backend, family, index).passed
            except torch.OutOfMemoryError:
                return None
        trusted[key] = answer
        return answer


def examine(backend: str, family: str, index: int) -> Verdict:
    """Run a check, whatever is known, and keep its result for this process and on disk.

    BrokenDevice if it has ended all work on the GPU; OutOfMemoryError.
    """
    device = machine.device(index)
    with _lock, machine.synchronising(device):
        figures, error = _run(backend, family, device)
        found = _verdicts[backend, family, index] = Verdict(figures)
        # What an exception says may have a cause that no key names, such as a missing compiler.
        computed = not any(figure.problem for figure in figures)
        kept = (computed or error) and record.write(backend, family, index, figures)
        if (backend, family, index) in trusted:
            trusted[backend, family, index] = found.passed
    if error:
        raise BrokenDevice(_end(backend, family, index, found, error, bool(kept)))
    return found


def _end(backend: str, family: str, index: int, found: Verdict, error: str, kept: bool) -> str:
    again = (
        "Start the same command again: this is on record, and backend='auto' then passes them over."
        if kept
        else "Set TGLO_BACKEND=reference and start the same command again."
    )
    return (
        f"backend {backend!r} {found} on {called(index)}; with it all work of this process on that GPU "
        f"has ended ({error}). {again}"
    )


def called(index: int) -> str:
    """Name a GPU with its driver."""
    card = machine.card(index)
    return f"GPU {index} ({card.name}, driver {card.driver or 'unknown'})"


def _run(backend: str, family: str, device: torch.device) -> tuple[tuple[Figure, ...], str]:
    """Return the figures, and the error that everything on the GPU now ends with, or ""."""
    triton = backend == "triton"
    forms = [form for form in FAMILIES[family]() if form.brief or not triton]
    on_device = torch.autocast(device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), on_device, torch.device("cpu"):
        machine.drain(device)
        launched: list[tuple[Form, Outputs, Outputs]] = []
        at = ""
        try:
            for form in forms:
                at = form.name
                launched.append((form, form.launch(triton, device), form.launch(triton, device)))
            at = "waiting for all forms"
            machine.wait(device)
        except torch.OutOfMemoryError:
            raise
        except machine.Stuck as error:
            return (_failed(at, error),), str(error)
        except Exception as error:
            return (_failed(at, error),), machine.broken(device)
        return tuple(_judged(*one) for one in launched), ""


def _failed(form: str, error: Exception) -> Figure:
    text = " ".join(str(error).split())[:300]
    return Figure(form, "", float("inf"), 0.0, f"{type(error).__name__}: {text}")


def _judged(form: Form, first: Outputs, second: Outputs) -> Figure:
    found = tuple(tensor.cpu() for tensor in first)
    figure = form.judge(found)
    if figure.passed:
        for one, other in zip(found, second, strict=True):
            if not same_bits(form.name, "", other.cpu(), one).passed:
                return figure._replace(problem="a second call gives other bits")
    return figure
