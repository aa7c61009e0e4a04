"""The key-value store where the processes of a run meet: served by the launcher or rank 0, and reached by all."""

from __future__ import annotations

import math
import os
import socket
import time
from datetime import timedelta

import torch.distributed as dist

from tglo.stopping import Lost
from tglo.train.in_time import NotInTimeError, in_time

PATIENCE = "TGLO_START_TIMEOUT"
ALONE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
_NAME_SECONDS = 30.0


def patience() -> float:
    """Return how many seconds a process waits at the start for the others."""
    text = os.environ.get(PATIENCE, "300")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < 1e6:
        raise ValueError(f"{PATIENCE} is {text!r}; it must be a positive number of seconds")
    return seconds


class StartTimeoutError(TimeoutError, Lost):
    """Others did not come in time: their machines may only need longer."""


def place() -> tuple[str, int]:
    """Return MASTER_ADDR and MASTER_PORT; ValueError for what is no port."""
    host, port = (os.environ.get(name) or default for name, default in ALONE.items())
    if not (port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"MASTER_PORT is {port!r}; it must be a number from 1 to 65535")
    return host, int(port)


def meet(host: str, port: int, *, serving: bool, by_launcher: bool) -> dist.TCPStore:
    """Serve the store, or reach who serves it, within `patience`.

    StartTimeoutError if nobody serves it in time; ValueError for a name that does not resolve on rank 0, a port that
    another program has, and a program there that is no store.
    """
    if serving:
        _wait_for_name(host)
    else:
        _wait_for_server(host, port, "torchrun" if by_launcher else "rank 0")
    try:
        return connect(host, port, serving=serving)
    except dist.DistNetworkError as error:
        if serving and "EADDRINUSE" in str(error):
            raise ValueError(
                f"MASTER_PORT is {port}, which another program on rank 0's machine uses: give every run a "
                "port of its own"
            ) from error
        if serving:
            raise _elsewhere(host, port) from error
        raise StartTimeoutError(f"{host}:{port} (MASTER_ADDR, MASTER_PORT): {error}") from error


def connect(host: str, port: int, *, serving: bool = False) -> dist.TCPStore:
    """Make a connection to the store. Where something else listens, or a process that was stopped, torch waits for
    ever: it does so in a thread.
    """
    limit = patience()

    def make() -> dist.TCPStore:
        return dist.TCPStore(
            host,
            port,
            is_master=serving,
            timeout=timedelta(seconds=limit),
            wait_for_workers=False,
            multi_tenant=True,
        )

    try:
        return in_time(make, limit + 1)
    except NotInTimeError:
        if serving:  # torch has found nothing yet, and would try again
            raise _elsewhere(host, port) from None
        raise ValueError(
            f"what listens at {host}:{port} (MASTER_ADDR, MASTER_PORT) did not answer as a run's store does "
            f"within {limit:g} s: another service, or a stopped process of an earlier run. See what it is (`ss -ltnp` "
            "on that machine), or give this run another MASTER_PORT"
        ) from None


def _elsewhere(host: str, port: int) -> ValueError:
    return ValueError(
        f"MASTER_ADDR is {host!r}, and rank 0, on {socket.gethostname()}, does not reach itself there at "
        f"port {port}: give a name or address of rank 0's machine"
    )


def _wait_for_name(host: str) -> None:
    """Wait a little until a name resolves, as one of a pod that has just begun; ValueError if it does not."""
    deadline = time.monotonic() + min(_NAME_SECONDS, patience())
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except socket.gaierror as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"MASTER_ADDR is {host!r}, which does not resolve on rank 0 ({error.strerror}): give a name or "
                    "address of rank 0's machine that all others reach"
                ) from error
            time.sleep(0.2)


def _wait_for_server(host: str, port: int, who: str) -> None:
    """Wait until somebody listens there: torch's own waiting does not heed signals."""
    limit = patience()
    deadline = time.monotonic() + limit
    while True:
        try:
            socket.create_connection((host, port), timeout=min(5.0, limit)).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise StartTimeoutError(
                    f"{who} could not be reached at {host}:{port} (MASTER_ADDR, MASTER_PORT) within "
                    f"{limit:g} s ({error}). See whether it was started and whether a firewall lies "
                    f"between; if it only needs longer to start, set {PATIENCE} to more seconds"
                ) from error
            time.sleep(0.2)
