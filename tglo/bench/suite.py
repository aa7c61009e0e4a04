"""The whole suite: accuracy, then for every size each contender checked and timed, then host cost."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tglo.bench import accuracy, cpu, gpu, table
from tglo.bench.cases import (
    CPU_SIZES,
    GPU_SIZES,
    Case,
    Errors,
    Outcome,
    Size,
    errors,
    make_case,
    size_by_name,
    truth,
)
from tglo.bench.contenders import CONTENDERS, Contender, available, gradient_limit
from tglo.bench.record import describe
from tglo.devices import DTYPES, choose_device
from tglo.files import write_json

log = logging.getLogger("tglo")

Record = dict[str, Any]

THREADS = 2
"""On the CPU: what the project's own machines have, and what its targets are stated for."""
REPLAYS = 40
"""Of a CUDA graph of many steps."""
QUICK_SIZE = Size("tiny", 4)
_HOST_SHAPE = (2, 4, 8, 8)  # so small that the kernels' own time does not count


class Checked(NamedTuple):
    contender: Contender
    case: Case  # as the contender takes it
    errors: Errors | None  # None if it raised
    problem: str  # why it must not be timed; "" if it may


def checked(name: str, case: Case, exact: Outcome) -> Checked:
    """A contender's result against float64.

    Only ours have limits. What a compiler or a driver raises is a problem of that contender alone.
    """
    contender = CONTENDERS[name]()
    try:
        case = contender.prepare(case)
        found = errors(contender.check(case), exact)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return Checked(contender, case, None, f"{type(error).__name__}: {lines[0]}")
    limits = Errors(contender.log_ratio_limit, gradient_limit(case.policy.dtype))
    for what, value, limit in zip(Errors._fields, found, limits, strict=True):
        if contender.ours and not value <= limit:
            problem = f"the {what} is off by {value:.2g}, more than {limit:.2g}"
            return Checked(contender, case, found, problem)
    return Checked(contender, case, found, "")


def new_row(size: Size, name: str, found: Checked) -> Record:
    predictions = found.case.policy
    return {
        "size": size.name,
        "shape": list(size.shape),
        "elements": size.elements,
        "dtype": str(predictions.dtype).removeprefix("torch."),
        "contender": name,
        "error_log_ratio": _finite(found.errors and found.errors.log_ratio),
        "error_gradient": _finite(found.errors and found.errors.gradient),
        "bytes_per_element": found.contender.bytes_per_element * predictions.element_size() / 2,
        "problem": found.problem or None,
        "time_us": None,
    }


def _finite(value: float | None) -> float | None:
    """JSON has no infinity; the row's problem says what there was."""
    return value if value is not None and math.isfinite(value) else None


def measure_size(
    size: Size,
    names: Sequence[str],
    device: torch.device,
    *,
    dtype: torch.dtype = torch.bfloat16,
    rounds: int = 20,
    seconds: float = 0.02,
    bandwidth: float | None = None,
) -> list[Record]:
    """A row for each contender. `rounds` and `seconds` as in cpu.in_turns; `rounds` are replays on a
    GPU, and `bandwidth` is its copies'.
    """
    torch.compiler.reset()  # compiled code is specialised to one size
    case = make_case(size.shape, dtype=dtype, device=device)
    exact = truth(case)
    found = {name: checked(name, case, exact) for name in names}
    del exact
    rows = {name: new_row(size, name, result) for name, result in found.items()}
    usable = {name: result for name, result in found.items() if not result.problem}
    if device.type == "cpu":
        steps = {name: lambda r=result: r.contender.step(r.case) for name, result in usable.items()}
        for name, times in cpu.in_turns(steps, rounds=rounds, seconds=seconds).items():
            rows[name]["time_us"] = times._asdict()
    else:
        cases = gpu.rotation(case)
        for name, result in usable.items():
            rows[name].update(gpu_figures(result, cases, rounds, bandwidth))
    for name, row in rows.items():
        if row["problem"]:
            log.warning("%s, %s: %s", size.name, name, row["problem"])
    return list(rows.values())


def gpu_figures(
    found: Checked, cases: Sequence[Case], repeats: int, bandwidth: float | None
) -> dict[str, Any]:
    """What a row gets from a GPU."""
    mine = [case._replace(base_error=found.case.base_error) for case in cases]
    try:
        times = gpu.measure(found.contender, mine, repeats=repeats)
    except RuntimeError as error:  # what cannot be captured
        torch.cuda.synchronize()
        return {"problem": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
    policy = found.case.policy
    moved = found.contender.bytes_per_element * policy.element_size() / 2 * policy.numel()
    return {
        "time_us": times.rotated._asdict(),
        "in_cache_us": times.cached and times.cached._asdict(),
        "launches": times.launches,
        "peak_bytes": times.peak_bytes,
        "floor_us": moved / bandwidth * 1e6 if bandwidth else None,
    }


def measure_host(names: Sequence[str], device: torch.device, *, rounds: int = 50) -> list[Record]:
    """CPU time of a call on tiny tensors, for each contender."""
    torch.compiler.reset()
    case = make_case(_HOST_SHAPE, device=device)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    rows = []
    for name in names:
        contender = CONTENDERS[name]()
        try:
            mine = contender.prepare(case)
            contender.step(mine)
            cost = cpu.host_cost(contender, mine, synchronize=synchronize, rounds=rounds)
        except Exception as error:  # named in the size's rows, where it is checked
            log.warning("host cost, %s: %s", name, type(error).__name__)
            continue
        rows.append({"contender": name, "shape": list(_HOST_SHAPE), **cost._asdict()})
    return rows


def measure(
    sizes: Sequence[Size] | None = None,
    *,
    device: str = "auto",
    dtype: str = "bf16",
    quick: bool = False,
    save: Callable[[Record], None] = lambda record: None,
) -> Record:
    """The record of the suite; without `sizes`, those that the device finishes in a few minutes.

    `save` gets the record before the first and after each size: what was measured stays if a later
    part is cut off.
    """
    target = choose_device(device)
    on_cpu = target.type == "cpu"
    if on_cpu:
        torch.set_num_threads(min(THREADS, os.cpu_count() or 1))
    if not sizes:
        sizes = [QUICK_SIZE] if quick else (CPU_SIZES if on_cpu else GPU_SIZES)
    record: Record = {**describe(), "device": target.type, "quick": quick, "rows": []}
    names = available(target, compiled=not quick)
    log.info("accuracy of the log-ratio")
    record["accuracy"] = accuracy.measure(target, (4, 4, 64, 64) if quick else accuracy.SHAPE)
    log.info("host cost")
    record["host"] = measure_host(names, target, rounds=5 if quick else 50)
    bandwidth = None if on_cpu else gpu.copy_bandwidth()
    record["copy_bytes_per_second"] = bandwidth
    save(record)
    for size in sizes:
        log.info("%s %s", size.name, size.shape)
        record["rows"] += measure_size(
            size,
            names,
            target,
            dtype=DTYPES[dtype],
            rounds=2 if quick else 20 if on_cpu else REPLAYS,
            seconds=0.001 if quick else 0.02,
            bandwidth=bandwidth,
        )
        save(record)
    return record


def bench(
    sizes: Sequence[str] = (),
    output: Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "bf16",
    quick: bool = False,
) -> int:
    """Run the suite, print its tables and write its record as it goes; the number of wrong results of ours."""
    chosen = [size_by_name(name) for name in sizes]

    def save(record: Record) -> None:
        sizes = table.sizes(record)
        shown = table.size_text(record, sizes[-1]) if sizes else table.opening(record)
        print(f"{shown}\n", flush=True)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_json(output, record)

    record = measure(chosen, device=device, dtype=dtype, quick=quick, save=save)
    if output is not None:
        print(f"wrote {output}")
    wrong = problems(record)
    for line in wrong:
        log.warning("%s", line)
    return len(wrong)


def problems(record: Record) -> list[str]:
    """Every result of ours that is missing or beyond its limit. Accuracy is promised of full runs."""
    found = [] if record["quick"] else accuracy.failures(record["accuracy"])
    for row in record["rows"]:
        if row["problem"] and row["contender"].startswith("tglo"):
            found.append(f"{row['size']}, {row['contender']}: {row['problem']}")
    return found
