"""What all ranks of a run must have alike: configuration, libraries, and the output folder."""

from __future__ import annotations

import os
import secrets
import socket
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from tglo import __version__
from tglo.train import processes
from tglo.train.config import TrainConfig
from tglo.train.config_files import to_plain

LIBRARIES = ("torch", "deepspeed", "diffusers", "transformers", "peft")
PLACES = {
    *("model.path", "model.config", "model.lora", "output.folder"),
    *("data.manifest", "data.cache", "data.root", "data.threshold", "data.reference_cache"),
}
"""Keys that may differ, where machines have the same files in other folders."""
MARK = ".shared.tmp"
SHARED_SECONDS = 30.0
"""That a network file system may take to show a file of another machine."""


def refuse_ranks_apart(config: TrainConfig) -> None:
    """Raise ValueError, on every rank, naming a rank whose libraries or configuration are not rank 0's."""
    read = processes.gather((socket.gethostname(), _versions(), _flat(to_plain(config))))
    here, versions, keys = read[0]
    for rank, (host, their_versions, their_keys) in enumerate(read):
        who = f"rank {rank}, on {host}, has"
        for name in versions:
            if their_versions[name] != versions[name]:
                raise ValueError(
                    f"{who} {name} {their_versions[name]}, and rank 0, on {here}, {versions[name]}: install "
                    "the same versions on every machine"
                )
        for key in sorted(keys.keys() | their_keys.keys()):
            if key not in PLACES and their_keys.get(key) != keys.get(key):
                raise ValueError(
                    f"{who} {key} = {their_keys.get(key)}, and rank 0, on {here}, {keys.get(key)}: start every "
                    "rank with the same configuration and flags"
                )


def refuse_unshared(folder: Path) -> None:
    """Raise ValueError, on every rank, unless all see the output folder that rank 0 sees."""
    if processes.world_size() == 1:
        return
    token = secrets.token_hex(8)
    token = processes.from_main(lambda: _write(folder / MARK, token))
    seen = processes.gather((socket.gethostname(), _sees(folder / MARK, token)))
    processes.on_main(lambda: (folder / MARK).unlink(missing_ok=True))
    for rank, (host, sees) in enumerate(seen):
        if not sees:
            raise ValueError(
                f"rank {rank}, on {host}, does not see the output folder of rank 0, on {seen[0][0]}: {folder} "
                "must be on a disk that all machines share, since each rank writes its part of a checkpoint"
            )


def _write(path: Path, token: str) -> str:
    path.write_text(token)
    return token


def _sees(path: Path, token: str) -> bool:
    deadline = time.monotonic() + SHARED_SECONDS
    while True:
        try:
            os.listdir(path.parent)  # network file systems remember what was not there
            if path.read_text() == token:
                return True
        except OSError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)


def _versions() -> dict[str, str]:
    found = {"tglo": __version__}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "(not installed)"
    return found


def _flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, dict):
            keys |= _flat(value, f"{prefix}{name}.")
        else:
            keys[f"{prefix}{name}"] = value
    return keys
