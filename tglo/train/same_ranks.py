"""What all ranks of a run must have alike: configuration, libraries, settings of the environment, the model's weights
and the output folder; and what had better be alike: GPUs, clocks, memory.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import socket
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tglo import __version__
from tglo.train import host_memory, processes
from tglo.train.config import TrainConfig
from tglo.train.config_files import to_plain

LIBRARIES = ("torch", "deepspeed", "diffusers", "transformers", "peft")
PLACES = {
    *("model.path", "model.config", "model.lora", "output.folder"),
    *("data.manifest", "data.cache", "data.root", "data.threshold", "data.reference_cache"),
}
"""Keys that may differ, where machines have the same files in other folders."""
ENVIRONMENT = (
    *("TGLO_BACKEND", "TGLO_SELF_CHECK", "NVIDIA_TF32_OVERRIDE"),
    *("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG"),
)
"""Variables that decide what is computed, or how exactly."""
CLOCKS_APART = 60.0  # seconds
FRACTION_OF_MEMORY = 0.5
PROBES = 16
"""Values of each weight that are compared."""
log = logging.getLogger("tglo")
MARK = ".shared.tmp"
SHARED_SECONDS = 30.0
"""That a network file system may take to show a file of another machine."""


def refuse_ranks_apart(config: TrainConfig) -> None:
    """Raise ValueError, on every rank, naming a rank whose libraries, configuration or environment are not rank 0's;
    warn of machines that differ otherwise.
    """
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
    _refuse_other_environment()
    _warn_of_machines_apart()


def _refuse_other_environment() -> None:
    read = processes.gather(
        (socket.gethostname(), {name: os.environ.get(name) for name in ENVIRONMENT})
    )
    here, first = read[0]
    for rank, (host, theirs) in enumerate(read):
        for name in ENVIRONMENT:
            if theirs[name] != first[name]:
                own, other = (
                    "not set" if v is None else repr(v) for v in (theirs[name], first[name])
                )
                raise ValueError(
                    f"rank {rank}, on {host}, has {name} {own}, and rank 0, on {here}, {other}: the environment must "
                    "be the same on every machine"
                )


def _warn_of_machines_apart() -> None:
    """Log on rank 0 what is not as on rank 0: GPU, driver; a clock, or free memory, far from it."""
    # All ranks leave a collective at nearly the same moment, so that what was read just after it can be compared.
    read = processes.gather((time.time(), socket.gethostname(), *_machine()))
    if processes.rank():
        return
    now, here, gpu, memory = read[0]
    for rank, (clock, host, their_gpu, their_memory) in enumerate(read):
        who = f"rank {rank}, on {host}, has"
        if their_gpu != gpu:
            log.warning(
                "%s %s, and rank 0, on %s, %s: the slowest sets the pace", who, their_gpu, here, gpu
            )
        if abs(clock - now) > CLOCKS_APART:
            way = "ahead of" if clock > now else "behind"
            log.warning(
                "%s a clock %.0f s %s that of rank 0, on %s: times in logs and of files are not comparable; set it "
                "(`timedatectl`, NTP)",
                *(who, abs(clock - now), way, here),
            )
        if memory and their_memory and their_memory < FRACTION_OF_MEMORY * memory:
            log.warning(
                "%s %.1f GiB of free host memory, and rank 0, on %s, %.1f: it may be the first to be killed for lack "
                "of it",
                *(who, their_memory / 2**30, here, memory / 2**30),
            )


def _machine() -> tuple[str, int | None]:
    """Return the GPU with its driver, and the free host memory."""
    gpu = "no GPU"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(torch.cuda.current_device())
        gpu = f"{device.name} of {device.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return gpu, host_memory.available()


def refuse_weights_apart(module: nn.Module, key: str = "model.path") -> None:
    """Raise ValueError, on every rank, unless the model that each read from its disk is the same, as far as some
    values of each weight tell. Collective.
    """
    if processes.world_size() == 1:
        return
    read = processes.gather((socket.gethostname(), processes.together(lambda: _some_of(module))))
    here, first = read[0]
    for rank, (host, theirs) in enumerate(read):
        if theirs != first:
            raise ValueError(
                f"rank {rank}, on {host}, has read other weights from {key} than rank 0, on {here}: copy the same "
                "files to every machine, or give a folder that all of them share"
            )


def _some_of(module: nn.Module) -> str:
    digest = hashlib.sha256()
    probes = []
    for name, weight in sorted(module.state_dict(keep_vars=True).items()):
        flat = weight.detach().reshape(-1)
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} ".encode())
        probes.append(flat[:: max(1, len(flat) // PROBES)][:PROBES].double())
    digest.update(torch.cat(probes).cpu().numpy().tobytes())
    return digest.hexdigest()


def refuse_unshared(folder: Path) -> None:
    """Raise ValueError, on every rank, unless all see the output folder that rank 0 sees."""
    if processes.world_size() == 1:
        return
    token = secrets.token_hex(8)
    token = processes.from_main(lambda: _write(folder / MARK, token))
    host = socket.gethostname()
    seen = processes.gather((host, _sees(folder / MARK, token)))
    processes.on_main(lambda: (folder / MARK).unlink(missing_ok=True))
    for rank, (host, sees) in enumerate(seen):
        if not sees:
            raise ValueError(
                f"rank {rank}, on {host}, does not see the output folder of rank 0, on {seen[0][0]}: {folder} "
                "must be on a disk that all machines share, since each rank writes its part of a checkpoint"
            )
    written = processes.gather((host, _cannot_write(folder / f"{MARK}.{processes.rank()}")))
    for rank, (host, problem) in enumerate(written):
        if problem:
            raise ValueError(
                f"rank {rank}, on {host}, cannot write to the output folder {folder}: {problem}. Each rank writes its "
                "part of a checkpoint: mount it there for reading and writing, for the same user"
            )


def _cannot_write(path: Path) -> str:
    """Return why a file cannot be made there; "" if it can."""
    try:
        path.touch()
        path.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""


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
