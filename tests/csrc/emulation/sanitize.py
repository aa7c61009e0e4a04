"""`python -m tests.csrc.emulation.sanitize`: the emulated kernels under sanitizers, with few cases.

AddressSanitizer and UndefinedBehaviorSanitizer watch every access; ThreadSanitizer knows each CUDA
thread as a thread of its own and looks for accesses that no barrier and no counter puts in order.
g++ has no MemorySanitizer: memory that is all ones, which are NaN, takes its place in all cases.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.csrc.emulation.build import Build, default_folder, driver, missing

# ThreadSanitizer takes about 8,000 threads: devices that hold few of them.
RUNS = [
    ("thread", "narrow90"),
    ("thread", "single80"),
    ("address", "small90"),
    ("address", "small80"),
    ("address", "rtx4090"),
]
SECONDS = 600


def outcome(sanitizer: str, device: str) -> tuple[str, int]:
    start = time.monotonic()
    environment = {
        **os.environ,
        "TGLO_EMULATED_DEVICE": device,
        "TSAN_OPTIONS": "halt_on_error=1 history_size=2",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    program = default_folder() / f"driver-{sanitizer}-csrc"
    done = subprocess.run(
        [str(program), "few"], env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    report = done.stdout if done.returncode == 0 else done.stdout[-2000:] + done.stderr[:6000]
    return (
        f"{sanitizer} {device} ({time.monotonic() - start:.0f} s): {report.strip()}",
        done.returncode,
    )


def main() -> int:
    if reason := missing():
        print(f"The emulation cannot be built here: {reason}")
        return 1
    for sanitizer in ("thread", "address"):
        driver(Build(default_folder(), sanitizer))
    failed = 0
    with ThreadPoolExecutor(2) as pool:
        for report, status in pool.map(lambda run: outcome(*run), RUNS):
            print(report, flush=True)
            failed += status != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
