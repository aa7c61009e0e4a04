"""The whole run: build, then check and time every contender, in turns where they fit together."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.remote import NO_TIME, Deadline, Problem, Remote
from benchmarks.step.contenders import PEERS, Contender
from benchmarks.step.operations import Operations
from benchmarks.step.ours import Ours
from benchmarks.step.plan import Group, StepPlan
from benchmarks.step.worker import Builder, Worker
from benchmarks.step.workplace import Workplace
from tglo.bench.clock import in_turns, spread
from tglo.bench.record import NO_MEMORY, Record

log = logging.getLogger("tglo")

FIRST_LOSS_LIMIT = {"fp32": 1e-4, "bf16": 0.05}
"""Largest relative distance of the first loss from log 2 times the mean weight."""
AGREEMENT = {"fp32": 1e-3, "bf16": 0.1}
"""Largest relative difference of gradient norms, and of losses after an update, on one draw."""


@dataclass(eq=False)
class _Entrant:
    """A contender on its way through the run."""

    contender: Contender
    rows: list[Record]
    """A row for each batch."""
    remote: Remote | None = None

    def fails(self, why: str, first: int = 0) -> None:
        """Give it up: its rows from the number `first` say why."""
        log.warning("%s, batch %s: %s", self.contender.name, self.rows[first]["batch"], why)
        self.rows[first]["problem"] = why
        for row in self.rows[first + 1 :]:
            row["problem"] = f"not tried after: {why}"
        self.close()

    def ask(self, method: str, *arguments: Any) -> Any:
        assert self.remote is not None
        return self.remote.ask(method, *arguments)

    def close(self) -> None:
        if self.remote is not None:
            self.remote.close()
        self.remote = None


def measure(plan: StepPlan, save: Callable[[Record], None] = lambda record: None) -> Record:
    """Return the record of a run; `save` gets it whenever a row was added."""
    deadline = Deadline(plan.seconds)
    with tempfile.TemporaryDirectory(prefix="tglo-step-") as folder:
        workplace = Workplace(Path(folder), plan.size, plan.device)
        samples = max(4, *plan.batches, plan.ablation_batch)
        builder = _start(Builder, (workplace,), plan, deadline)
        try:
            record: Record = {
                **builder.ask("describe"),
                "suite": "step",
                "device": plan.device,
                "quick": plan.quick,
                "model": workplace.size.model,
                "size": plan.size,
                "precision": workplace.precision,
                "peers": PEERS,
                "full": plan.base,
                "ablations": {what: found.name for what, found in plan.ablations().items()},
                "ablation_batch": plan.ablation_batch,
                "rows": [],
            }
            builder.ask("build", samples)
        finally:
            builder.close()
        _Run(plan, workplace, record, deadline, save).all()
    return record


def _start(kind: Any, arguments: tuple[Any, ...], plan: StepPlan, deadline: Deadline) -> Remote:
    here = plan.fork and plan.on_cpu  # on a GPU this process may have looked at CUDA
    preload = ("benchmarks.step.worker",) if plan.fork and not here else ()
    return Remote(
        kind, arguments, deadline=deadline, threads=plan.threads, fork=here, preload=preload
    )


class _Run:
    """The contenders' part of a run."""

    def __init__(
        self,
        plan: StepPlan,
        workplace: Workplace,
        record: Record,
        deadline: Deadline,
        save: Callable[[Record], None],
    ) -> None:
        self.plan, self.workplace, self.record = plan, workplace, record
        self.deadline, self.save = deadline, save
        self.operations = Operations(**record["operations"])
        self.standard: dict[str, Record] = {}  # of each way of training, the first that was checked

    def all(self) -> None:
        for group in self.plan.groups():
            # On a GPU each has the device's memory to itself.
            turns = [[c] for c in group.contenders]
            for together in [group.contenders] if self.plan.on_cpu else turns:
                self.together(replace(group, contenders=together))

    def together(self, group: Group) -> None:
        """Check all, then for each batch let them take turns."""
        batches = group.batches
        entrants = [
            _Entrant(c, [self.new_row(c, batch, group.ablated) for batch in batches])
            for c in group.contenders
        ]
        for entrant in entrants:
            self.record["rows"] += entrant.rows
        try:
            for entrant in entrants:
                self.check(entrant)
            for number in range(len(batches)):
                self.batch(entrants, number)
                if number == 0:
                    self.attempt(entrants, number, self.count_launches)
                self.save(self.record)
        finally:
            for entrant in entrants:
                entrant.close()

    def new_row(self, contender: Contender, batch: int, ablated: bool) -> Record:
        return {
            "contender": contender.name,
            "ours": isinstance(contender, Ours),
            "ablated": ablated,
            "train": contender.train,
            "batch": batch,
            "operations": self.operations.step(
                contender.train, reference=contender.reference, online=contender.online
            ),
            "time_us": None,
            "problem": None,
            "note": None,
        }

    def attempt(
        self, entrants: Sequence[_Entrant], number: int, run: Callable[[_Entrant, int], None]
    ) -> None:
        """Call `run` for each that is still there; a problem ends that one alone."""
        for entrant in entrants:
            if entrant.remote is not None:
                try:
                    run(entrant, number)
                except Problem as problem:
                    entrant.fails(str(problem), number)

    def check(self, entrant: _Entrant) -> None:
        """Start it and look at its first steps. Ours is not timed if its first loss is wrong."""
        contender = entrant.contender
        log.info("%s: check", contender.name)
        try:
            arguments = (contender, self.workplace)
            entrant.remote = _start(Worker, arguments, self.plan, self.deadline)
            found = entrant.ask("check", self.plan.batches[0])
        except Problem as problem:
            entrant.fails(str(problem))
            return
        precision = self.workplace.precision
        wrong = _distance(found, "first_loss", found["expected_loss"], FIRST_LOSS_LIMIT[precision])
        if wrong and isinstance(contender, Ours):
            entrant.fails(wrong)
        elif not wrong:
            standard = self.standard.setdefault(contender.train, found)
            for name in ("gradient_norm", "second_loss"):
                wrong = wrong or _distance(found, name, standard[name], AGREEMENT[precision])
        for row in entrant.rows:
            row.update(found, note=wrong)

    def batch(self, entrants: Sequence[_Entrant], number: int) -> None:
        """Let the entrants take turns at one batch, and complete their rows."""

        def use(entrant: _Entrant, number: int) -> None:
            log.info("%s: batch %d", entrant.contender.name, entrant.rows[number]["batch"])
            entrant.ask("use", entrant.rows[number]["batch"])

        def turn(entrant: _Entrant) -> list[float]:
            found: list[float] = []

            def one_round(entrant: _Entrant, number: int) -> None:
                found.append(entrant.ask("round", self.plan.steps))

            self.attempt([entrant], number, one_round)
            return found

        self.attempt(entrants, number, use)
        turns = {entrant.contender.name: partial(turn, entrant) for entrant in entrants}
        enough = 1e6 * self.plan.enough / self.plan.steps
        times = in_turns(turns, self.plan.rounds, enough=enough)

        def finish(entrant: _Entrant, number: int) -> None:
            row = entrant.rows[number]
            row.update(entrant.ask("finish", 2))
            row["time_us"] = found = spread(times[entrant.contender.name])._asdict()
            row["samples_per_second"] = rate = row["batch"] / (found["median"] * 1e-6)
            row["flops_per_second"] = rate * row["operations"]
            matrix = self.record["matrix_flops_per_second"]
            row["of_matrix_rate"] = row["flops_per_second"] / matrix

        self.attempt(entrants, number, finish)

    def count_launches(self, entrant: _Entrant, number: int) -> None:
        launches = entrant.ask("launches")  # the same for every batch
        for row in entrant.rows:
            row["launches"] = launches


def problems(record: Record) -> list[str]:
    """List what is wrong with rows of ours; memory and time that did not suffice are results."""
    expected = (NO_MEMORY, NO_TIME)
    found = []
    for row in record["rows"]:
        wrong = row["problem"] or row["note"]
        if row["ours"] and wrong and not wrong.endswith(expected):
            found.append(f"{row['contender']}, batch {row['batch']}: {wrong}")
    return found


def _distance(found: Record, name: str, value: float, limit: float) -> str | None:
    """Return a sentence if a value is further from what it should be than the relative limit."""
    if abs(found[name] - value) <= limit * abs(value):
        return None
    return f"{name} is {found[name]:.6g} instead of {value:.6g}, limit {limit:g}"
