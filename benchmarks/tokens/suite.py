"""Every task at every size and batch: results checked, then timed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import torch

from benchmarks.remote import Deadline, Problem, Remote
from benchmarks.tokens.contenders import SIZES, Inputs, TokenContender, contenders, make_inputs
from benchmarks.tokens.measure import check, check_named
from tglo.bench.clock import in_turns, matrix_rate, spread, timed
from tglo.bench.record import Record, attempt, describe

LEAST = {"float32": 1e-5, "bfloat16": 1e-3, "float16": 1e-3}
"""Errors below this are no reason to complain, whatever eager's happen to be."""
CHECK_SECONDS = 3600.0
"""The longest that a contender may take for one step and its check."""

log = logging.getLogger("tglo")


def measure(
    *,
    device: str,
    dtype: str,
    task: Sequence[str],
    size: Sequence[str],
    batch: Sequence[int],
    rounds: int,
    backend: str,
    names: Sequence[str] | None = None,
    save: Callable[[Record], None] = lambda record: None,
) -> Record:
    """Return the record; `save` gets it after each task at each size and batch, whose rows are the last
    ones then. names: those of the contenders, eager among them; all by default.
    """
    known = [one for one in contenders(backend) if one.only in (None, device)]
    chosen = [one for one in known if names is None or one.name in names]
    rate = matrix_rate(torch.device(device), getattr(torch, dtype))
    record: Record = describe() | {"quick": False, "device": device, "rows": []}
    record["matrix_flops_per_second"] = rate
    for which in size:
        for samples in batch:
            inputs = make_inputs(which, samples, getattr(torch, dtype), device)
            for wanted in task:
                place = {"task": wanted, "size": which, "batch": samples, "dtype": dtype}
                log.info("%s, %s x %d", wanted, which, samples)
                floor = {"floor_us": 1e6 * _operations(wanted, inputs) / rate}
                record["rows"] += _rows(place, floor, inputs, chosen, rounds, backend)
                save(record)
    return record


def problems(record: Record) -> list[str]:
    """List the results of tglo's that are wrong or missing."""
    return [
        f"{row['contender']}, {row['task']}, {row['size']} x {row['batch']}: {row['problem']}"
        for row in record["rows"]
        if row["wrong"]
    ]


def _operations(task: str, inputs: Inputs) -> int:
    """Count the operations of the matrix products that tglo's way needs: the masked tokens' logits, the
    same again and two gradients in the backward, and the reference's logits.
    """
    products = {"log-prob": 4, "loss": 5}[task]
    return products * 2 * inputs.masked * inputs.weight.numel()


def _rows(
    place: Record,
    floor: Record,
    inputs: Inputs,
    chosen: Sequence[TokenContender],
    rounds: int,
    backend: str,
) -> list[Record]:
    """Check every contender, then let the right ones take turns; a row for each."""
    rows: dict[str, Record] = {}
    for contender in chosen:
        rows[contender.name] = {
            **place,
            **floor,
            "contender": contender.name,
            "shape": [place["batch"], *SIZES[place["size"]]],
            "masked": inputs.masked,
            "time_us": None,
            "wrong": False,
            **dict.fromkeys(("peak_bytes", "error_value", "error_gradient")),
            **_checked(contender, place, inputs, backend),
        }
    _judge(list(rows.values()), LEAST[place["dtype"]])

    def turn(contender: TokenContender) -> list[float]:
        return [timed(partial(contender.run, place["task"], inputs))]

    right = [one for one in chosen if rows[one.name]["problem"] is None]
    turns = {one.name: partial(turn, one) for one in right}
    for name, times in in_turns(turns, rounds + 1).items():
        rows[name]["time_us"] = spread(times[1:])._asdict()  # the first round warms up
    return list(rows.values())


def _checked(contender: TokenContender, place: Record, inputs: Inputs, backend: str) -> Record:
    """Check a contender; on the CPU in a process of its own, whose memory is the contender's."""
    if inputs.hidden.is_cuda:
        found, problem = attempt(partial(check, contender, place["task"], inputs))
        if found is None:
            torch.cuda.empty_cache()
        return found or {"problem": problem}
    named = partial(check_named, **place, contender=contender.name, device="cpu", backend=backend)
    # Freed memory goes back to the system at once: the peak is then what is in use.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    try:
        remote = Remote(
            partial, (named,), deadline=Deadline(CHECK_SECONDS), environment=environment
        )
        try:
            found = remote.ask("__call__")
        finally:
            remote.close()
    except Problem as problem:
        return {"problem": str(problem)}
    return found


def _judge(rows: list[Record], least: float) -> None:
    """Note where tglo's result is further off than twice eager's, or is not there at all."""
    eager = rows[0]
    for row in rows:
        if not row["contender"].startswith("tglo"):
            continue
        for name in ("error_value", "error_gradient"):
            if row[name] is None or eager[name] is None:
                continue
            limit = max(2 * eager[name], least)
            if not row[name] <= limit:
                row["problem"] = f"{name} {row[name]:.1e} is above {limit:.1e}"
        row["wrong"] = row["problem"] is not None
