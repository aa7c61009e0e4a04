"""`python -m tests.ranks COUNT PORT (-m MODULE | -c CODE | FILE) ...`: the ranks of one machine, forked.

What torchrun does in tests that are not about torchrun: the variables of each rank, and an end for all of
them when one has failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from tests.preloaded import Popen, become, end_with

GRACE = 30  # seconds from SIGTERM to SIGKILL, as torchrun's


def ended(
    commands: Sequence[Sequence[str]], variables: Sequence[Mapping[str, str]], timeout: float
) -> list[tuple[int, str]]:
    """Exit status and output of interpreters that run beside each other, with these variables beside their own."""
    started = [
        Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **own},
        )
        for command, own in zip(commands, variables, strict=True)
    ]
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(p.returncode, output) for p, output in zip(started, outputs, strict=True)]


def main(count: int, port: str, arguments: list[str]) -> int:
    """Run the ranks; returns 1 if one has failed."""
    running = [_rank(rank, count, port, arguments) for rank in range(count)]

    def end(number: int, _: object) -> None:
        for process in running:
            os.kill(process, signal.SIGKILL if number == signal.SIGALRM else signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGALRM, end)
    failed = False
    while running:
        process, status = os.wait()
        running.remove(process)
        if status and not failed:
            failed = True
            signal.alarm(GRACE)
            end(signal.SIGTERM, None)
    return int(failed)


def _rank(rank: int, count: int, port: str, arguments: list[str]) -> int:
    if child := os.fork():
        return child
    own, size = str(rank), str(count)
    os.environ |= {"RANK": own, "LOCAL_RANK": own, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    end_with(lambda: become(arguments[0], arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
