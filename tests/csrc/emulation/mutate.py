"""`python -m tests.csrc.emulation.mutate [NAME ...]`: plants faults into csrc/ and shows that the cases catch them.

Ends with status 1 if one that has to be caught is not. NAMEs choose the faults whose name contains one of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from tests.csrc.emulation.build import Build, default_folder, driver, missing
from tests.csrc.emulation.faults import FAULTS, Fault

SECONDS = 100  # of one run; a fault that makes it hang is caught, too


def outcome(fault: Fault, number: int) -> tuple[Fault, str, float]:
    """What shows the fault: the first line of a report, or nothing."""
    start = time.monotonic()
    build = Build(default_folder(), fault.sanitizer, change=fault.plant, tree=f"planted-{number}")
    program = driver(build)
    environment = {
        **os.environ,
        "TGLO_EMULATED_DEVICE": fault.device,
        "TGLO_EMULATION_STOP": "1",
        "TSAN_OPTIONS": "halt_on_error=1 report_signal_unsafe=0 history_size=2",
    }
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        command = [str(program), "few", fault.cases]
        try:
            status = subprocess.run(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=SECONDS
            ).returncode
        except subprocess.TimeoutExpired:
            status = 124
        output.seek(0)
        lines = [line.strip() for line in output if line.strip(" =\n-")]
    program.unlink()
    report = (lines[0] if lines else "") if status else ""
    return fault, report or (f"status {status}" if status else ""), time.monotonic() - start


def main(names: list[str]) -> int:
    if reason := missing():
        print(f"The emulation cannot be built here: {reason}")
        return 1
    faults = [fault for fault in FAULTS if not names or any(n in fault.name for n in names)]
    for sanitizer in sorted({fault.sanitizer for fault in faults}):
        driver(Build(default_folder(), sanitizer))  # what no fault touches is compiled once
    missed = 0
    with ThreadPoolExecutor(2) as pool:
        for fault, report, seconds in pool.map(outcome, faults, range(len(faults))):
            if report:
                verdict = f"caught: {report[:110]}"
            else:
                verdict = f"not caught: {fault.explained}" if fault.explained else "NOT CAUGHT"
                missed += not fault.explained
            print(
                f"{fault.name} ({fault.sanitizer or 'plain'}, {seconds:.0f} s)\n    {verdict}",
                flush=True,
            )
    print(f"{len(faults)} faults planted, {missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
