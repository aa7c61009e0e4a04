"""Processes of tests that start in milliseconds: forks of one in which the slow libraries are imported.

A process of its own takes five seconds of a core until torch, diffusers, transformers and DeepSpeed are
there, and some tests start six. `Popen` and `run` are those of subprocess for `[sys.executable, "-m" MODULE |
"-c" CODE | FILE, ...]`: the process is a real one, with the environment, folder, pipes, session and exit
status that were asked for, and tglo is imported in it. Not for tests of what is imported, or of variables
that the libraries read when they are imported; nor of what depends on the order of sets of text: all have
one seed of hashes.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

MAX_MESSAGE = 1 << 22  # bytes; mostly the environment
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)


class _Server:
    """The process that forks, and what it has said of its children. One for each process of tests."""

    def __init__(self) -> None:
        self.socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.socket, other):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE)
        self.ended: dict[int, int] = {}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from tests import preloaded; preloaded.serve()"],
            stdin=other,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        other.close()
        atexit.register(self.close)

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()

    def fork(self, asked: dict[str, Any], files: list[int]) -> int:
        """Return the id of a new process with these files as its 0, 1 and 2."""
        socket.send_fds(self.socket, [json.dumps(asked).encode()], files)
        while True:
            message = json.loads(self.socket.recv(MAX_MESSAGE))
            if "started" in message:
                self.ended.pop(message["started"], None)  # of an earlier process of that id
                return int(message["started"])
            self._note(message)

    def status(self, process: int, timeout: float | None) -> int | None:
        """Return the exit status of a process, negative for a signal; None if it runs on for so long."""
        while process not in self.ended:
            if not select.select([self.socket], [], [], timeout)[0]:
                return None
            self._note(json.loads(self.socket.recv(MAX_MESSAGE)))
        return self.ended[process]

    def _note(self, message: dict[str, int]) -> None:
        self.ended[message["ended"]] = message["status"]


_server: _Server | None = None


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """subprocess.Popen whose process is forked from one that has the libraries."""

    def _execute_child(
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo,
        creationflags, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite,
        restore_signals, gid, gids, uid, umask, start_new_session, process_group,
    ):  # fmt: skip
        global _server
        interpreter, *arguments = map(os.fspath, args)
        assert interpreter == sys.executable and not (preexec_fn or pass_fds or shell or executable)
        if _server is None:
            _server = _Server()
        self._server = _server
        asked = {
            "arguments": arguments,
            "folder": os.fspath(cwd or os.getcwd()),
            "environment": dict(os.environ if env is None else env),
            "session": start_new_session,
        }
        with open(os.devnull, "r+b") as nothing:
            inherited = (nothing.fileno(), 1, 2)
            given = (p2cread, c2pwrite, errwrite)
            files = [
                own if own != -1 else other for own, other in zip(given, inherited, strict=True)
            ]
            self.pid = self._server.fork(asked, files)
        self._child_created = True
        nowhere = getattr(self, "_devnull", None)
        pairs = ((p2cread, p2cwrite), (c2pwrite, c2pread), (errwrite, errread))
        for file in {own for own, other in pairs if other != -1} | ({nowhere} - {None}):
            os.close(file)
        self._closed_child_pipe_fds = True

    def _internal_poll(self, _deadstate=None, **_):
        if self.returncode is None:
            self.returncode = self._server.status(self.pid, 0)
        return self.returncode

    def _wait(self, timeout):
        if self.returncode is None:
            self.returncode = self._server.status(self.pid, timeout)
            if self.returncode is None:
                raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode


def run(
    command: Any,
    *,
    check: bool = False,
    capture_output: bool = False,
    timeout: float | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """subprocess.run, of a process that is forked from one that has the libraries."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done


def serve() -> None:
    """Import the libraries, then fork whatever is asked for on the socket that is standard input."""
    # As the command line sets it before it imports them.
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    import deepspeed  # noqa: F401
    import peft  # noqa: F401
    import pyarrow  # noqa: F401
    import torch.distributed.run  # noqa: F401
    import tyro  # noqa: F401
    from diffusers import DiffusionPipeline, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    gc.freeze()  # a collection in a child would write to all of it
    client = socket.socket(fileno=os.dup(0))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE)
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at the terminal is for the tests
    while True:
        ready = select.select([client, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            for process, status in _ended():
                client.send(json.dumps({"ended": process, "status": status}).encode())
        if client not in ready:
            continue
        message, files, *_ = socket.recv_fds(client, MAX_MESSAGE, 3)
        if not message:
            return
        if child := os.fork():
            for file in files:
                os.close(file)
            client.send(json.dumps({"started": child}).encode())
            continue
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
        for file in (client.detach(), woken, wake):
            os.close(file)
        _become(json.loads(message), files)


def _ended() -> list[tuple[int, int]]:
    found = []
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not process:
            return found
        found.append((process, os.waitstatus_to_exitcode(status)))


def _become(asked: dict[str, Any], files: list[int]) -> NoReturn:
    """Be the process that was asked for, to its end."""
    if asked["session"]:
        os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    for path in reversed(asked["environment"].get("PYTHONPATH", "").split(os.pathsep)):
        if path and path not in sys.path:
            sys.path.insert(0, path)
    import numpy as np

    np.random.seed()  # or what draws without a seed is the same in all of them
    first, *rest = asked["arguments"]
    end_with(lambda: become(first, rest))


def end_with(work: Callable[[], None]) -> NoReturn:
    """Work, and end as an interpreter does, but for freeing what it shares with the process that it came
    from: that takes seconds, and copies all of it.
    """
    status: Any = 0
    try:
        work()
    except SystemExit as stop:
        status = stop.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    with suppress(BaseException):
        threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit((status or 0) & 0xFF)


def become(first: str, rest: list[str]) -> None:
    """Run what an interpreter's arguments say: -m MODULE, -c CODE, or a file."""
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        code, *arguments = rest
        sys.argv = ["-c", *arguments]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")
