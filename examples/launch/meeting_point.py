#!/usr/bin/env python3
"""Whether torchrun can meet at HOST:PORT: torchrun itself says so with a traceback per node, or waits for ten minutes.

The name must resolve, within TGLO_START_TIMEOUT seconds (at most a minute): a pod's may come a little later. What
listens there must be torch's store.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

LONGEST = 60.0
CONNECT = """
import sys
from datetime import timedelta
import torch.distributed as dist
dist.TCPStore(sys.argv[1], int(sys.argv[2]), is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30))
"""


def problem(endpoint: str, limit: float, answer: float = LONGEST) -> str:
    """Say what is wrong with a rendezvous's endpoint, seen from this host; "" if nothing is.

    limit: seconds until the name must resolve. answer: until what listens there must have answered.
    """
    host, _, port = endpoint.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        return f"the rendezvous is {endpoint!r}; it must be HOST:PORT"
    deadline = time.monotonic() + limit
    while True:
        try:
            socket.getaddrinfo(host, int(port))
            break
        except OSError as error:
            if time.monotonic() > deadline:
                return (
                    f"the rendezvous is at {endpoint}, and {host} does not resolve here ({error.strerror}): give a "
                    "name or address of one of the nodes that all of them reach"
                )
            time.sleep(0.2)
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return ""  # nobody is there yet: torchrun waits for it, or serves it here
    try:
        command = [sys.executable, "-c", CONNECT, host, port]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=answer
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is not None and done.returncode == 0:
        return ""
    return (
        f"what listens at {endpoint} does not answer as torchrun's rendezvous does: another service, or a stopped "
        "process of an earlier run. See what it is (`ss -ltnp` there), or give another port"
    )


def main(arguments: list[str]) -> int:
    """Look for --rdzv-endpoint among torchrun's arguments; returns 1 where it cannot work."""
    flags = ("--rdzv-endpoint", "--rdzv_endpoint")
    words = [part for word in arguments for part in word.split("=", 1)]
    places = [words[i + 1] for i, word in enumerate(words[:-1]) if word in flags]
    try:
        limit = min(LONGEST, float(os.environ.get("TGLO_START_TIMEOUT", "300")))
    except ValueError:
        limit = LONGEST  # tglo says what is wrong with it
    if places and (told := problem(places[0], limit)):
        print(f"tglo: {socket.gethostname()}: {told}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
