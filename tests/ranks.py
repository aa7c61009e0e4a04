"""`python -m tests.ranks COUNT PORT (-m MODULE | -c CODE | FILE) ...`: the ranks of one machine, forked.

What torchrun does in tests that are not about torchrun: the variables of each rank, and an end for all of
them when one has failed.
"""

from __future__ import annotations

import os
import signal
import sys

from tests.preloaded import become, end_with

GRACE = 30  # seconds from SIGTERM to SIGKILL, as torchrun's


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
