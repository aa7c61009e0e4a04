"""The roll call of a run's processes: whoever waits for others can say which of them are missing.

Every process notes in the launcher's key-value store how far it is. torch's own waiting names nobody,
and lasts up to half an hour.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import torch.distributed as dist

from tglo.devices import process
from tglo.stopping import Lost
from tglo.train import meeting_place
from tglo.train.meeting_place import PATIENCE, StartTimeoutError, patience

_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 1.0
_HEARD_SECONDS = 5.0
ERROR = "error: "
"""What the note of a process that stops by itself begins with."""


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
        self.rank, self.world_size = rank, world_size
        self._meetings = 0
        self._second, self._ending = second, threading.Event()
        self._answering: threading.Thread | None = None
        self.serving = False
        """Whether the store ends with this process."""

    @classmethod
    def of_launcher(cls) -> RollCall:
        """Reach the store that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT tell of.

        TimeoutError if nobody serves it in time, ValueError if another process has this rank, or has been told
        of another number of processes.
        """
        rank, world_size = process()
        if world_size == 1:
            return cls(dist.HashStore(), rank, world_size)
        host, port = meeting_place.place()
        # torchrun serves the store itself; under other launchers rank 0 does.
        served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        serving = rank == 0 and not served
        store = meeting_place.meet(host, port, serving=serving, by_launcher=served)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        notes = dist.PrefixStore(f"tglo/{attempt}", store)
        if notes.add(f"rank/{rank}", 1) > 1:
            raise ValueError(
                f"two processes have RANK {rank} at {host}:{port}: start each rank once, and give every "
                "run a MASTER_PORT of its own"
            )
        notes.set(f"host/{rank}", socket.gethostname())
        second = dist.PrefixStore(f"tglo/{attempt}", meeting_place.connect(host, port))
        call = cls(notes, rank, world_size, f"{host}:{port}", second)
        call.serving = serving
        return call

    def agree(self, **facts: str) -> None:
        """Note what all processes must have alike; ValueError where rank 0 has something else."""
        self.store.set(f"facts/{self.rank}", json.dumps(facts))
        self._wait([0], "facts", "start")
        for name, its in json.loads(self.store.get("facts/0")).items():
            if facts[name] != its:
                raise ValueError(
                    f"{name} is {facts[name]} for rank {self.rank}, on {self.host(self.rank)}, and {its} for rank 0, "
                    f"on {self.host(0)}: start all ranks with the same settings, on machines of one kind"
                )

    def wait_for_all(self, stage: str) -> None:
        """Note that this process has reached `stage` and wait for the others; TimeoutError naming those that
        have not come in time, and the error of one that has stopped meanwhile.
        """
        self.store.set(f"{stage}/{self.rank}", "here")
        self._wait(range(self.world_size), stage, stage)

    def _wait(self, ranks: Sequence[int], key: str, stage: str) -> None:
        limit = patience()
        deadline = time.monotonic() + limit
        try:
            while not self.store.check([f"{key}/{rank}" for rank in ranks]):
                self.raise_if_told()
                if time.monotonic() > deadline and (missing := self._without(key, ranks)):
                    raise StartTimeoutError(
                        f"{_ranks(missing)} of {self.world_size} did not {stage} within {limit:g} s, and rank "
                        f"{self.rank} no longer waits. Look at their output and whether their hosts reach "
                        f"this one; if they only need longer to start, set {PATIENCE} to more seconds"
                    )
                time.sleep(_POLL_SECONDS)
        except dist.DistError as error:
            raise Lost(
                f"the store at {self.place}, of the launcher or rank 0, cannot be reached any more: look at "
                f"their output ({' '.join(str(error).split())[:200]})"
            ) from error

    def tell(self, error: Exception) -> None:
        """Tell those that wait in `wait_for_all` what has stopped this process. Where the store ends with it, it
        waits until they have heard.
        """
        with suppress(RuntimeError):  # the store has gone
            if not self.store.check(["told"]):
                text = " ".join(str(error).split()) or type(error).__name__
                if not text.startswith(f"rank {self.rank}, on "):
                    text = f"rank {self.rank}, on {self.host(self.rank)}, stopped: {text}"
                self.store.set("told", json.dumps([text, isinstance(error, Lost)]))
            self.store.set(f"heard/{self.rank}", "")
            deadline = time.monotonic() + _HEARD_SECONDS
            while self.serving and time.monotonic() < deadline:
                everyone = range(self.world_size)
                there = [rank for rank in everyone if self.store.check([f"host/{rank}"])]
                if self.store.check([f"heard/{rank}" for rank in there]):
                    return
                time.sleep(_POLL_SECONDS)

    def raise_if_told(self) -> None:
        """Raise what another process has told."""
        if self.store.check(["told"]):
            text, lost = json.loads(self.store.get("told"))
            raise (Lost if lost else RuntimeError)(text)

    def meet(self) -> None:
        """Note that this process goes into its next meeting with all others."""
        self._meetings += 1
        self.store.set(f"meeting/{self.rank}", str(self._meetings))

    def absent(self) -> str:
        """Name the processes that did not come to this one's last meeting; "" if they did."""
        try:
            never = self._without("meeting")
            missing = [
                rank
                for rank in range(self.world_size)
                if rank in never or int(self.store.get(f"meeting/{rank}")) < self._meetings
            ]
        except RuntimeError:  # the store has gone
            return "rank 0, or the launcher"
        return _ranks(missing) if missing else ""

    def note(self, text: str) -> None:
        """Note that this process cannot go on, and why; the others note that they are there."""
        self.store.set(f"note/{self.rank}", text)
        self.store.set("alarm", "")

    def aside(self) -> RollCall:
        """Return the same notes over the second connection: for a thread, while the first waits in torch."""
        return RollCall(self._second or self.store, self.rank, self.world_size, self.place)

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
        mine = f"note/{self.rank}"
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
        everyone = [f"note/{rank}" for rank in range(self.world_size)]
        deadline = time.monotonic() + wait
        while not self.store.check(everyone) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if missing := self._without("note"):
            hosts = sorted({self.host(rank) for rank in missing})
            return (
                f"{_ranks(missing)} of {self.world_size}, on {', '.join(hosts[:8])}, said nothing for "
                f"{wait:.3g} s: ended, stopped, or cut off from {self.place}"
            ), False
        for rank, key in enumerate(everyone):
            text = self.store.get(key).decode()
            if text.startswith(ERROR) and rank != self.rank:
                return (
                    f"rank {rank}, on {self.host(rank)}, stopped: {text.removeprefix(ERROR)}"
                ), True
        return "", False

    def host(self, rank: int) -> str:
        return self.store.get(f"host/{rank}").decode()

    def _without(self, key: str, ranks: Sequence[int] | None = None) -> list[int]:
        everyone = range(self.world_size) if ranks is None else ranks
        return [rank for rank in everyone if not self.store.check([f"{key}/{rank}"])]


def _ranks(numbers: list[int]) -> str:
    word = "rank" if len(numbers) == 1 else "ranks"
    return f"{word} {', '.join(map(str, numbers[:8]))}{', ...' if len(numbers) > 8 else ''}"
