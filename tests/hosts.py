"""Two hosts on one machine: network namespaces joined by a cable, each with a host name of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.preloaded import Popen

PORT = 29400
# In a fork of the process that has the libraries: into the namespace, then on as it was told.
ENTER = """
import ctypes, os, sys
from tests.preloaded import become
NEWNET, NEWUTS = 0x40000000, 0x04000000
libc = ctypes.CDLL(None, use_errno=True)
with open(f"/run/netns/{sys.argv[1]}") as file:
    assert libc.setns(file.fileno(), NEWNET) == 0 and libc.unshare(NEWUTS) == 0
name = sys.argv[2].encode()
assert libc.sethostname(name, len(name)) == 0
become(sys.argv[3], sys.argv[4:])
"""


class Host:
    """One of the two."""

    def __init__(self, name: str, address: str, names: Path) -> None:
        self.name, self.address, self.names = name, address, names
        self.space = f"tglo-{os.getpid()}-{name}"

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """A forked interpreter on this host; `arguments` are those of an interpreter."""
        environment = {"GLOO_SOCKET_IFNAME": "eth0"} | environment  # its name does not resolve
        return Popen(
            [sys.executable, "-c", ENTER, self.space, self.name, *arguments],
            **self._options(environment),
        )

    def run_file(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Any command on this host, where both names resolve."""
        settle = f'hostname {self.name} && mount --bind {self.names} /etc/hosts && exec "$@"'
        inside = ["ip", "netns", "exec", self.space, "unshare", "--uts", "sh", "-c", settle, "sh"]
        return subprocess.Popen([*inside, *command], **self._options(environment))

    def _options(self, environment: dict[str, str]) -> dict[str, object]:
        paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        return {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
            "start_new_session": True,
            "env": {**os.environ, **paths, **environment},
        }

    def processes(self) -> list[int]:
        """Process ids of all that runs on this host."""
        return [int(text) for text in _ip("netns", "pids", self.space).split()]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to everything on this host at once."""
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def ip(self, *arguments: str) -> None:
        _ip("-n", self.space, *arguments)


def problem() -> str:
    """Say why hosts cannot be made here; "" if they can."""
    if not shutil.which("ip"):
        return "no `ip` of iproute2"
    name = f"tglo-{os.getpid()}-try"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except subprocess.CalledProcessError as error:
        return f"network namespaces cannot be made here: {error.stderr.strip()}"
    return ""


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Hosts host-a and host-b, whose eth0 are the ends of one cable; they share all disks."""
    names = folder / "hosts"
    names.write_text("127.0.0.1 localhost\n10.213.0.1 host-a\n10.213.0.2 host-b\n")
    first, second = hosts = (
        Host("host-a", "10.213.0.1", names),
        Host("host-b", "10.213.0.2", names),
    )
    try:
        for host in hosts:
            _ip("netns", "add", host.space)
        ends = ("netns", first.space, "type", "veth", "peer", "name", "eth0")
        _ip("link", "add", "eth0", *ends, "netns", second.space)
        for host in hosts:
            host.ip("addr", "add", f"{host.address}/24", "dev", "eth0")
            host.ip("link", "set", "lo", "up")
            host.ip("link", "set", "eth0", "up")
        yield hosts
    finally:
        for host in hosts:
            with suppress(subprocess.CalledProcessError):
                host.kill()
                _ip("netns", "del", host.space)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    return done.stdout
