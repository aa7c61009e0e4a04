"""The end of a process that hangs while it joins the group: gloo and NCCL wait there for whoever is gone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tglo.stopping import RESTART, Lost, ask_for_restart, write_at_once
from tglo.train.meeting_place import patience
from tglo.train.roll_call import RollCall

_TICK = 0.5
_SILENT_SECONDS = 5.0


@contextmanager
def ended_if_stuck(call: RollCall) -> Iterator[None]:
    """End the process, with a line, if the block outlasts the patience, or another process tells meanwhile that it has
    stopped.
    """
    done = threading.Event()
    watching = threading.Thread(
        target=_watch, args=(call.aside(), done), name="joining", daemon=True
    )
    if call.world_size > 1:
        watching.start()
    try:
        yield
    finally:
        done.set()


def _watch(call: RollCall, done: threading.Event) -> None:
    limit = patience()
    deadline = time.monotonic() + limit + 2  # whoever waits in Python has said so by then
    told = ""
    while not done.wait(_TICK):
        try:
            call.raise_if_told()
        except Lost as error:
            told, status = str(error), RESTART
        except RuntimeError as error:
            told, status = str(error), 1
        if told:
            time.sleep(_TICK)  # or the block raises it
        elif time.monotonic() > deadline:
            told, status = f"the group of processes was not joined within {limit:g} s", RESTART
            with suppress(RuntimeError):
                call.note("does not join")
                if silent := call.silent(_SILENT_SECONDS)[0]:
                    told = f"{silent}; {told}"
        if told and not done.is_set():
            line = f"tglo: rank {call.rank} of {call.world_size}: {told}\n"
            write_at_once(line.encode())
            if status == RESTART:
                ask_for_restart()
            os._exit(status)
