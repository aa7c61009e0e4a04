"""The roll call of a run's processes: whoever waits for others can say which of them are missing.

Every process notes in the launcher's key-value store how far it is. torch's own waiting names nobody,
and lasts up to half an hour.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

from tglo.devices import process
from tglo.stopping import Lost

PATIENCE = "TGLO_START_TIMEOUT"
_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 1.0
_NAME_SECONDS = 30.0
ERROR = "error: "
"""What the note of a process that stops by itself begins with."""


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


class RollCall:
    """The notes of all processes in one store."""

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        world_size: int,
        place: str = "here",
        second: dist.Store | None = None,
    ) -> None:
        """`second` is another connection to the store, for the thread that answers alarms."""
        self.store, self.place = store, place
        self._rank, self._world_size = rank, world_size
        self._meetings = 0
        self._second, self._ending = second, threading.Event()
        self._answering: threading.Thread | None = None

    @classmethod
    def of_launcher(cls) -> RollCall:
        """Reach the store that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT tell of.

        TimeoutError if nobody serves it in time, ValueError if another process has this rank.
        """
        rank, world_size = process()
        if world_size == 1:
            return cls(dist.HashStore(), rank, world_size)
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # torchrun serves the store itself; under other launchers rank 0 does.
        served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        serving = rank == 0 and not served
        if not serving:
            _wait_for_server(host, port, "torchrun" if served else "rank 0")
        if serving:
            _wait_for_name(host)
        try:
            store = dist.TCPStore(
                host,
                port,
                is_master=serving,
                timeout=timedelta(seconds=patience()),
                wait_for_workers=False,
                multi_tenant=True,
            )
        except dist.DistNetworkError as error:
            if serving and "EADDRINUSE" in str(error):
                raise ValueError(
                    f"MASTER_PORT is {port}, which another program on rank 0's machine uses: give every run a "
                    "port of its own"
                ) from error
            raise
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        notes = dist.PrefixStore(f"tglo/{attempt}", store)
        if notes.add(f"rank/{rank}", 1) > 1:
            raise ValueError(
                f"two processes have RANK {rank} at {host}:{port}: start each rank once, and give every "
                "run a MASTER_PORT of its own"
            )
        notes.set(f"host/{rank}", socket.gethostname())
        second = dist.PrefixStore(
            f"tglo/{attempt}", dist.TCPStore(host, port, is_master=False, wait_for_workers=False)
        )
        return cls(notes, rank, world_size, f"{host}:{port}", second)

    def wait_for_all(self, stage: str) -> None:
        """Note that this process has reached `stage` and wait for the others; TimeoutError naming those that
        have not come in time.
        """
        self.store.set(f"{stage}/{self._rank}", "here")
        limit = patience()
        deadline = time.monotonic() + limit
        while not self.store.check([f"{stage}/{rank}" for rank in range(self._world_size)]):
            if time.monotonic() > deadline and (missing := self._without(stage)):
                raise StartTimeoutError(
                    f"{_ranks(missing)} of {self._world_size} did not {stage} within {limit:g} s, and rank "
                    f"{self._rank} no longer waits. Look at their output and whether their hosts reach "
                    f"this one; if they only need longer to start, set {PATIENCE} to more seconds"
                )
            time.sleep(_POLL_SECONDS)

    def meet(self) -> None:
        """Note that this process goes into its next meeting with all others."""
        self._meetings += 1
        self.store.set(f"meeting/{self._rank}", str(self._meetings))

    def absent(self) -> str:
        """Name the processes that did not come to this one's last meeting; "" if they did."""
        try:
            never = self._without("meeting")
            missing = [
                rank
                for rank in range(self._world_size)
                if rank in never or int(self.store.get(f"meeting/{rank}")) < self._meetings
            ]
        except RuntimeError:  # the store has gone
            return "rank 0, or the launcher"
        return _ranks(missing) if missing else ""

    def note(self, text: str) -> None:
        """Note that this process cannot go on, and why; the others note that they are there."""
        self.store.set(f"note/{self._rank}", text)
        self.store.set("alarm", "")

    def start_answering(self) -> None:
        """Answer an alarm in a thread, whatever this process is busy with or waits for."""
        if self._second is not None:
            self._answering = threading.Thread(target=self._answer, name="roll call", daemon=True)
            self._answering.start()

    def stop_answering(self, limit: float = 5.0) -> None:
        """End that thread: one that waits for the store while the process ends may abort it."""
        self._ending.set()
        if self._answering is not None:
            self._answering.join(limit)

    def _answer(self) -> None:
        assert self._second is not None
        mine = f"note/{self._rank}"
        with suppress(RuntimeError):  # the store has gone
            while not self._ending.wait(_ANSWER_SECONDS):
                if self._second.check(["alarm"]):
                    if not self._second.check([mine]):
                        self._second.set(mine, "here")
                    return

    def silent(self, wait: float) -> tuple[str, bool]:
        """Name, with their hosts, the processes without a note after `wait` seconds; or else one that has an error
        in its note, and True; "" if there are none.
        """
        everyone = [f"note/{rank}" for rank in range(self._world_size)]
        deadline = time.monotonic() + wait
        while not self.store.check(everyone) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if missing := self._without("note"):
            hosts = sorted({self._host(rank) for rank in missing})
            return (
                f"{_ranks(missing)} of {self._world_size}, on {', '.join(hosts[:8])}, said nothing for "
                f"{wait:.3g} s: ended, stopped, or cut off from {self.place}"
            ), False
        for rank, key in enumerate(everyone):
            text = self.store.get(key).decode()
            if text.startswith(ERROR) and rank != self._rank:
                return (
                    f"rank {rank}, on {self._host(rank)}, stopped: {text.removeprefix(ERROR)}"
                ), True
        return "", False

    def _host(self, rank: int) -> str:
        return self.store.get(f"host/{rank}").decode()

    def _without(self, stage: str) -> list[int]:
        others = range(self._world_size)
        return [rank for rank in others if not self.store.check([f"{stage}/{rank}"])]


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


def _ranks(numbers: list[int]) -> str:
    word = "rank" if len(numbers) == 1 else "ranks"
    return f"{word} {', '.join(map(str, numbers[:8]))}{', ...' if len(numbers) > 8 else ''}"
