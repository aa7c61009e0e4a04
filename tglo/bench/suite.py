"""The loss suite: accuracy and host cost, then for every size each contender checked and timed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from tglo.bench import accuracy, clock, gpu, table
from tglo.bench.cases import CPU_SIZES, GPU_SIZES, Case, Size, make_case, size_by_name, truth
from tglo.bench.contenders import CONTENDERS, Checked, Contender, available, checked
from tglo.bench.record import Record, attempt, describe, finite
from tglo.bench.record import save as write
from tglo.devices import DTYPES, choose_device

log = logging.getLogger("tglo")

THREADS = 2
"""Threads on the CPU, for which the project's targets are stated."""
REPLAYS = 40
"""Replays of a CUDA graph of many steps."""
QUICK_SIZE = Size("tiny", 4)
_HOST_SHAPE = (2, 4, 8, 8)  # so small that the kernels' own time does not count


def new_row(size: Size, name: str, found: Checked) -> Record:
    """Return the row of a contender that has not been timed."""
    predictions = found.case.policy
    return {
        "size": size.name,
        "shape": list(size.shape),
        "elements": size.elements,
        "dtype": str(predictions.dtype).removeprefix("torch."),
        "contender": name,
        "error_log_ratio": finite(found.errors and found.errors.log_ratio),
        "error_gradient": finite(found.errors and found.errors.gradient),
        "bytes_per_element": found.contender.bytes_per_element * predictions.element_size() / 2,
        "problem": found.problem,
        "time_us": None,
    }


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
    """Return a row for each contender. Each of `rounds` gives a contender `seconds` of calls; on a GPU
    they are replays, and `bandwidth` is that of its copies.
    """
    torch.compiler.reset()  # compiled code is specialised to one size
    case = make_case(size.shape, dtype=dtype, device=device)
    exact = truth(case)
    found = {name: checked(CONTENDERS[name](), case, exact) for name in names}
    del exact
    rows = {name: new_row(size, name, result) for name, result in found.items()}
    usable = {name: result for name, result in found.items() if not result.problem}
    if device.type == "cpu":
        turns = {
            name: clock.turn_of(partial(result.contender.step, result.case), seconds)
            for name, result in usable.items()
        }
        for name, times in clock.in_turns(turns, rounds).items():
            rows[name]["time_us"] = clock.spread(times)._asdict()
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
) -> Record:
    """Measure what a row gets from a GPU."""
    mine = [case._replace(base_error=found.case.base_error) for case in cases]
    figures, problem = attempt(lambda: gpu.measure(found.contender.step, mine, repeats=repeats))
    if figures is None:  # it cannot be captured
        torch.cuda.synchronize()
        return {"problem": problem}
    policy = found.case.policy
    moved = found.contender.bytes_per_element * policy.element_size() / 2 * policy.numel()
    return {**figures, "floor_us": moved / bandwidth * 1e6 if bandwidth else None}


def measure_host(names: Sequence[str], device: torch.device, *, rounds: int = 50) -> list[Record]:
    """Measure the CPU time of a call on tiny tensors, for each contender."""
    torch.compiler.reset()
    case = make_case(_HOST_SHAPE, device=device)

    def cost(contender: Contender) -> Record:
        mine = contender.prepare(case)
        contender.step(mine)
        return clock.host_cost(contender, mine, rounds=rounds)

    rows = []
    for name in names:
        found, problem = attempt(lambda n=name: cost(CONTENDERS[n]()))  # type: ignore[misc]
        if found is None:  # also named in the size's rows, where it is checked
            log.warning("host cost, %s: %s", name, problem)
        else:
            rows.append({"contender": name, "shape": list(_HOST_SHAPE), **found})
    return rows


def measure(
    sizes: Sequence[Size] | None = None,
    *,
    device: str = "auto",
    dtype: str = "bf16",
    quick: bool = False,
    save: Callable[[Record], None] = lambda record: None,
) -> Record:
    """Return the record of the suite; without `sizes`, of those that the device finishes in a few minutes.

    `save` gets the record before the first and after each size: what was measured stays if a later
    part is cut off.
    """
    target = choose_device(device)
    before = torch.get_num_threads()
    if target.type == "cpu":
        torch.set_num_threads(min(THREADS, os.cpu_count() or 1))
    try:
        return _measure(sizes, target, DTYPES[dtype], quick, save)
    finally:
        torch.set_num_threads(before)


def _measure(
    sizes: Sequence[Size] | None,
    target: torch.device,
    dtype: torch.dtype,
    quick: bool,
    save: Callable[[Record], None],
) -> Record:
    on_cpu = target.type == "cpu"
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
            dtype=dtype,
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
    """Run the suite, print its tables, write its record as it goes, and count the wrong results of ours."""
    chosen = [size_by_name(name) for name in sizes]

    def save(record: Record) -> None:
        sizes = table.sizes(record)
        shown = table.size_text(record, sizes[-1]) if sizes else table.opening(record)
        print(f"{shown}\n", flush=True)
        write(record, output)

    record = measure(chosen, device=device, dtype=dtype, quick=quick, save=save)
    if output is not None:
        print(f"wrote {output}")
    wrong = problems(record)
    for line in wrong:
        log.warning("%s", line)
    return len(wrong)


def problems(record: Record) -> list[str]:
    """List every result of ours that is missing or beyond its limit. Accuracy is promised of full runs."""
    found = [] if record["quick"] else accuracy.failures(record["accuracy"])
    for row in record["rows"]:
        if row["problem"] and row["contender"].startswith("tglo"):
            found.append(f"{row['size']}, {row['contender']}: {row['problem']}")
    return found
