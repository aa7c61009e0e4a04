"""Every task at every size and batch: results checked, then timed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.tokens.contenders import SIZES, Contender, Inputs, contenders, make_inputs
from benchmarks.tokens.measure import check, in_own_process, time_all
from tglo.bench import record as records
from tglo.bench.rate import matrix_rate

Record = dict[str, Any]

LEAST = {"float32": 1e-5, "bfloat16": 1e-3, "float16": 1e-3}
"""Errors below this are no reason to complain, whatever eager's happen to be."""

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
) -> Iterator[Record]:
    """The record, after each task at each size and batch; its new rows are the last ones. names: of
    the contenders, eager among them; all by default.
    """
    known = [one for one in contenders(backend) if one.only in (None, device)]
    chosen = [one for one in known if names is None or one.name in names]
    rate = matrix_rate(torch.device(device), getattr(torch, dtype))
    record: Record = records.describe() | {"quick": False, "device": device, "rows": []}
    record["matrix_flops_per_second"] = rate
    for which in size:
        for samples in batch:
            inputs = make_inputs(which, samples, getattr(torch, dtype), device)
            for wanted in task:
                place = {"task": wanted, "size": which, "batch": samples, "dtype": dtype}
                place["floor_us"] = 1e6 * _operations(wanted, inputs) / rate
                log.info("%s, %s x %d", wanted, which, samples)
                record["rows"] += _place(place, inputs, chosen, device, rounds, backend)
                yield record


def _operations(task: str, inputs: Inputs) -> int:
    """Of the matrix products that tglo's way needs: of the masked tokens' logits, of the same again and
    of two gradients in the backward, and of the reference's logits.
    """
    products = {"log-prob": 4, "loss": 5}[task]
    return products * 2 * inputs.masked * inputs.weight.numel()


def _place(
    place: Record,
    inputs: Inputs,
    chosen: Sequence[Contender],
    device: str,
    rounds: int,
    backend: str,
) -> list[Record]:
    """A row for each contender."""
    rows: dict[str, Record] = {}
    for contender in chosen:
        if device == "cpu":  # its memory is the process's
            names = {"contender": contender.name, "device": device, "backend": backend}
            wanted = {name: place[name] for name in ("task", "size", "batch", "dtype")}
            found = in_own_process(wanted | names)
        else:
            found = _checked(contender, place["task"], inputs)
        tokens, width, vocabulary = SIZES[place["size"]]
        empty = {"peak_bytes": None, "error_value": None, "error_gradient": None}
        rows[contender.name] = {
            **place,
            "contender": contender.name,
            "shape": [place["batch"], tokens, width, vocabulary],
            "masked": inputs.masked,
            "time_us": None,
            "wrong": False,
            **empty,
            **found,
        }
    _judge(list(rows.values()), LEAST[place["dtype"]])
    right = [one for one in chosen if rows[one.name]["problem"] is None]
    for name, spread in time_all(right, place["task"], inputs, rounds).items():
        rows[name]["time_us"] = spread._asdict()
    return list(rows.values())


def _checked(contender: Contender, task: str, inputs: Inputs) -> Record:
    try:
        return check(contender, task, inputs)
    except (ImportError, RuntimeError) as error:  # not installed, no memory
        torch.cuda.empty_cache()
        return {"problem": f"{type(error).__name__}: {str(error).splitlines()[0]}"}


def _judge(rows: list[Record], least: float) -> None:
    """Notes where tglo's result is further off than twice eager's, or is not there at all."""
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
