"""`python -m tests.csrc.emulation.mutate [NAME ...]`: plants faults into csrc/ and shows that the cases catch them.

One program has all of them and the environment says which one acts, so that the kernels are compiled once; without any
the program has to pass.
Ends with status 1 if one that has to be caught is not. NAMEs choose the faults whose name contains one of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.csrc.emulation.build import Build, default_folder, driver, missing
from tests.csrc.emulation.faults import FAULTS, Fault

SECONDS = 100  # of one run; a fault that makes it hang is caught, too


def planted(sanitizer: str) -> Path:
    """A program with all faults of a sanitizer, of which the environment names the one that acts."""

    def plant(name: str, text: str) -> str:
        for number, fault in enumerate(FAULTS):
            if fault.sanitizer == sanitizer:
                text = fault.plant(name, text, number)
        return text

    return driver(Build(default_folder(), sanitizer, change=plant, tree="planted" + sanitizer))


def report_of(program: Path, device: str, cases: str, number: int | None) -> str:
    """The first line of what the cases say against fault `number`, or without one; empty if they pass."""
    environment = {
        **os.environ,
        "TGLO_EMULATED_DEVICE": device,
        "TGLO_EMULATED_FAULT": str(-1 if number is None else number),
        "TGLO_EMULATION_STOP": "1",
        "TSAN_OPTIONS": "halt_on_error=1 report_signal_unsafe=0 history_size=2",
    }
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        command = [str(program), "few", cases]
        try:
            status = subprocess.run(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=SECONDS
            ).returncode
        except subprocess.TimeoutExpired:
            status = 124
        output.seek(0)
        lines = [line.strip() for line in output if line.strip(" =\n-")]
    report = (lines[0] if lines else "") if status else ""
    return report or (f"status {status}" if status else "")


def main(names: list[str]) -> int:
    if reason := missing():
        print(f"The emulation cannot be built here: {reason}")
        return 1
    chosen = [
        k for k, fault in enumerate(FAULTS) if not names or any(n in fault.name for n in names)
    ]
    chosen.sort(key=lambda number: not FAULTS[number].sanitizer)  # what takes long comes first
    programs = {
        name: planted(name) for name in sorted({FAULTS[number].sanitizer for number in chosen})
    }

    def outcome(number: int) -> tuple[Fault, str, float]:
        fault, start = FAULTS[number], time.monotonic()
        report = report_of(programs[fault.sanitizer], fault.device, fault.cases, number)
        return fault, report, time.monotonic() - start

    missed = 0
    for device, cases in sorted(
        {(FAULTS[k].device, FAULTS[k].cases) for k in chosen if not FAULTS[k].sanitizer}
    ):
        if report := report_of(programs[""], device, cases, None):
            print(f"without a fault, {device} {cases}: {report}")
            missed += 1
    with ThreadPoolExecutor(2) as pool:
        for fault, report, seconds in pool.map(outcome, chosen):
            if report:
                verdict = f"caught: {report[:110]}"
            else:
                verdict = f"not caught: {fault.explained}" if fault.explained else "NOT CAUGHT"
                missed += not fault.explained
            print(
                f"{fault.name} ({fault.sanitizer or 'plain'}, {seconds:.0f} s)\n    {verdict}",
                flush=True,
            )
    print(f"{len(chosen)} faults planted, {missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
