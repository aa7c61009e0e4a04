"""Whether the processes of a run reach each other by the network interfaces that gloo and NCCL will take.

Both wait long, or for ever, where one process names no interface of its host or an address that others do not
reach, and neither says whose it is.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from contextlib import ExitStack, suppress
from typing import NamedTuple

import psutil

from tglo.train.meeting_place import patience
from tglo.train.roll_call import RollCall

VARIABLES = {"gloo": "GLOO_SOCKET_IFNAME", "nccl": "NCCL_SOCKET_IFNAME"}
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_TOKEN_BYTES = 16
_TELL_SECONDS = 1.0


class Address(NamedTuple):
    """Where a process listens, and why there."""

    family: int
    address: str
    reason: str


def check_network(call: RollCall, backend: str) -> None:
    """Raise ValueError, naming ranks, hosts and interface, where this process has not the interface that it was told
    to take, or does not reach the next rank by the one that gloo takes there. Collective.
    """
    variable = VARIABLES.get(backend, "")
    names = os.environ.get(variable, "")
    if names:
        _check_interfaces(variable, names, prefixes=backend == "nccl")
    if backend == "gloo":
        _reach_the_next(call, _address(names))
    call.wait_for_all("reach its peers")


def _check_interfaces(variable: str, names: str, *, prefixes: bool) -> None:
    """NCCL's names are beginnings of names; = before them means whole ones, ^ those that it does not take."""
    if prefixes and names.startswith("^"):
        return
    exact, there = not prefixes or names.startswith("="), psutil.net_if_stats()
    wanted = [name.strip() for name in names.removeprefix("=").split(",") if name.strip()]
    who = f"{variable} is {names!r}, and {socket.gethostname()} has"
    remedy = f"set {variable} there to one by which the other machines reach it"
    up = ", ".join(sorted(name for name, state in there.items() if state.isup)) or "none"
    found = {
        name: [x for x in there if x == name or (not exact and x.startswith(name))]
        for name in wanted
    }
    missing = [name for name in wanted if not found[name]]
    if missing and (exact or len(missing) == len(wanted)):
        raise ValueError(f"{who} no interface {missing[0]} (up are {up}): {remedy}")
    matching = {name for several in found.values() for name in several}
    down = sorted(name for name in matching if not there[name].isup)
    if down and (exact or len(down) == len(matching)):
        raise ValueError(
            f"{who} {down[0]}, which is down (up are {up}): switch it on (`ip link`), or {remedy}"
        )


def _address(names: str) -> Address:
    """Return the address that gloo will listen at: of its interface, of the host's name, or of the host itself."""
    interface = names.split(",")[0].strip()
    if interface:
        for entry in psutil.net_if_addrs().get(interface, []):
            if entry.family in _FAMILIES:
                return Address(entry.family, entry.address, f"of its interface {interface}")
        raise ValueError(
            f"GLOO_SOCKET_IFNAME is {names!r}, and {interface} has no address on {socket.gethostname()}: set it there "
            "to an interface by which the other machines reach it"
        )
    name = socket.gethostname()
    with suppress(OSError):
        for family, _, _, _, where in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
            with suppress(OSError), socket.create_server((str(where[0]), 0), family=family):
                return Address(family, str(where[0]), f"of its name {name}")
    return Address(
        socket.AF_INET, "127.0.0.1", f"since its name {name} leads to no address of its own"
    )


def _reach_the_next(call: RollCall, own: Address) -> None:
    """Listen as gloo will, and connect to the next rank, which tells its token."""
    token = secrets.token_bytes(_TOKEN_BYTES)
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server((own.address, 0), family=own.family))
        stack.callback(server.shutdown, socket.SHUT_RDWR)  # or the thread would wait on
        threading.Thread(target=_serve, args=(server, token), daemon=True).start()
        port = server.getsockname()[1]
        call.store.set(
            f"address/{call.rank}", "\n".join([own.address, str(port), own.reason, token.hex()])
        )
        call.wait_for_all("listen")
        other = (call.rank + 1) % call.world_size
        address, port, reason, expected = call.store.get(f"address/{other}").decode().split("\n")
        limit = min(10.0, patience())
        try:
            with socket.create_connection((address, int(port)), timeout=limit) as connection:
                told = connection.recv(_TOKEN_BYTES, socket.MSG_WAITALL).hex()
            problem = "" if told == expected else "another program answers there"
        except OSError as error:
            problem = str(error)
        if problem:
            time.sleep(
                _TELL_SECONDS
            )  # the other may have ended since it does not reach its own next
            call.raise_if_told()
            raise ValueError(
                f"rank {call.rank}, on {call.host(call.rank)}, does not reach rank {other}, on {call.host(other)}, at "
                f"{address}, the address {reason} ({problem}): set GLOO_SOCKET_IFNAME on every machine to an interface "
                "by which the others reach it (`ip -br address` lists them), and see whether a firewall lies between"
            )
        call.wait_for_all("reach the next")


def _serve(server: socket.socket, token: bytes) -> None:
    with suppress(OSError):  # closed
        while True:
            connection, _ = server.accept()
            with connection:
                connection.sendall(token)
