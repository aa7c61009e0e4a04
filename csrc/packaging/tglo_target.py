"""Decides what of csrc/ is compiled for an environment. CMakeLists.txt runs this file, tglo_backend.py imports it.

What the user wants comes from environment variables:

TGLO_CUDA            AUTO (default): the CUDA kernels are compiled for a CUDA build of torch where nvcc is found.
                     ON insists on them, also for a CPU build of torch; OFF leaves them out.
TGLO_NO_EXTENSION    1: nothing is compiled; the loss runs on plain PyTorch.
TGLO_TORCH_INCLUDE   torch's include folder, where the Python that installs does not see torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

VARIABLES = ("TGLO_CUDA", "TGLO_NO_EXTENSION", "TGLO_TORCH_INCLUDE")
OLDEST_TORCH = (2, 11)
OLDEST_NVCC = (12, 8)

_TRUE, _FALSE = ("1", "ON", "TRUE", "YES"), ("", "0", "OFF", "FALSE", "NO")
_REMEDY = """Install {torch} first, then tglo with the same command again:
    pip install "torch>=2.11,<2.14"
"""
_WITHOUT = (
    "TGLO_NO_EXTENSION=1 installs tglo without its extension; the loss then runs on plain PyTorch."
)


class Refusal(Exception):
    """What was asked for cannot be built; the text has the remedy."""


class Target(NamedTuple):
    """What is built, and why not more."""

    extension: bool
    torch_include: str = ""
    torch_version: str = ""
    nvcc: str = ""  # empty: the CUDA kernels are left out
    why: str = ""

    @property
    def label(self) -> str:
        """The wheel's local version label. The fuller build sorts higher, so that pip prefers it."""
        return "cuda" if self.nvcc else "cpu" if self.extension else "bare"


def decide(environment: Mapping[str, str], system: str = sys.platform) -> Target:
    """Return what is built in such an environment. Refusal if that is not what was asked for."""
    cuda = _cuda(environment.get("TGLO_CUDA", ""))
    if _without_extension(environment.get("TGLO_NO_EXTENSION", "")):
        if cuda == "ON":
            raise Refusal("TGLO_CUDA=ON and TGLO_NO_EXTENSION=1 contradict each other; unset one.")
        return Target(False, why="TGLO_NO_EXTENSION is set")
    if system != "linux":
        if cuda == "ON":
            raise Refusal(
                f"TGLO_CUDA=ON: the extension is built on Linux only, this is {system}; unset it."
            )
        return Target(False, why=f"the extension is built on Linux only, this is {system}")
    include = _torch_include(environment)
    version = _torch_version(include)
    nvcc, why = _cuda_compiler(cuda, include.parent, environment)
    return Target(True, str(include), _dotted(version), nvcc, why)


def _cuda_compiler(cuda: str, torch: Path, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return what compiles the CUDA kernels, or why they are left out. Refusal if they were insisted on."""
    if cuda == "OFF":
        return "", "TGLO_CUDA is OFF"
    if cuda == "AUTO" and not _has_cuda(torch):
        return "", f"{torch} is no CUDA build; TGLO_CUDA=ON compiles them all the same"
    nvcc, why = _nvcc(environment)
    if cuda == "ON" and why:
        raise Refusal(
            f"TGLO_CUDA=ON, but {why}.\nPut nvcc {_dotted(OLDEST_NVCC)} or later on PATH, or name it with "
            "CUDACXX=/path/to/nvcc. TGLO_CUDA=OFF leaves the CUDA kernels out."
        )
    return nvcc, why


def _cuda(value: str) -> str:
    upper = value.upper()
    if upper in ("", "AUTO"):
        return "AUTO"
    if upper not in _TRUE + _FALSE:
        raise Refusal(f"TGLO_CUDA is {value!r}; use AUTO, ON or OFF.")
    return "ON" if upper in _TRUE else "OFF"


def _without_extension(value: str) -> bool:
    if value.upper() not in _TRUE + _FALSE:
        raise Refusal(f"TGLO_NO_EXTENSION is {value!r}; use 1, or unset it.")
    return value.upper() in _TRUE


def _torch_include(environment: Mapping[str, str]) -> Path:
    """Return torch's include folder in the environment that tglo is installed into."""
    named = environment.get("TGLO_TORCH_INCLUDE", "")
    if named:
        return Path(named).absolute()
    pythons = [sys.executable]
    if environment.get("VIRTUAL_ENV"):
        pythons.append(f"{environment['VIRTUAL_ENV']}/bin/python")
    for python in pythons:
        folder = _torch_folder(python, environment)
        if folder:
            return Path(folder, "include")
    raise Refusal(
        "tglo's extension is compiled against the headers of torch, and there is no torch for "
        f"{' or '.join(dict.fromkeys(pythons))}.\n{_REMEDY.format(torch='torch')}"
        "uv and python -m build hide the torch that is installed: name its headers with "
        f"TGLO_TORCH_INCLUDE=.../site-packages/torch/include.\n{_WITHOUT}"
    )


def _torch_folder(python: str, environment: Mapping[str, str]) -> str:
    """Return where this Python would import torch from, or "". Importing it would take seconds."""
    # pip's build isolation says through PYTHON* that only its own folders are seen; without them the same interpreter
    # sees the environment that the package is installed into.
    hiding = ("PYTHONPATH", "PYTHONNOUSERSITE")
    target = {name: value for name, value in environment.items() if name not in hiding}
    code = "import importlib.util as u; s = u.find_spec('torch'); print(s and s.origin or '')"
    for variables in (target, dict(environment)):
        try:
            done = subprocess.run(
                [python, "-P", "-c", code], env=variables, capture_output=True, text=True
            )
        except OSError:
            return ""
        lines = done.stdout.splitlines()
        if done.returncode == 0 and lines and lines[-1]:
            return str(Path(lines[-1]).parent)
    return ""


def _torch_version(include: Path) -> tuple[int, int]:
    """Return the version that the headers state. Refusal if they are too old, or not all there."""
    found = ""
    header = include / "torch/headeronly/version.h"
    if header.is_file():
        numbers = re.findall(r"define TORCH_VERSION_(?:MAJOR|MINOR) (\d+)", header.read_text())
        if len(numbers) == 2:
            version = int(numbers[0]), int(numbers[1])
            if version >= OLDEST_TORCH and (include / "torch/csrc/stable/ops.h").is_file():
                return version
            found = f"those of torch {_dotted(version)}"
    raise Refusal(
        f"tglo's extension needs the stable-ABI headers of torch {_dotted(OLDEST_TORCH)} or later; "
        f"{include} has {found or 'none'}.\n{_REMEDY.format(torch='such a torch')}{_WITHOUT}"
    )


def _has_cuda(torch: Path) -> bool:
    """Tell from its files whether this torch is a CUDA build."""
    version = torch / "version.py"
    stated = version.is_file() and re.search(
        r"^cuda\b.*= *['\"]\d", version.read_text(), re.MULTILINE
    )
    return bool(stated) or (torch / "lib/libc10_cuda.so").is_file()


def _nvcc(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the path of a CUDA compiler that is new enough, and why there is none."""
    named = environment.get("CUDACXX", "")
    path = shutil.which(named or "nvcc", path=environment.get("PATH", ""))
    for home in ("CUDA_HOME", "CUDA_PATH"):
        if not named and not path and environment.get(home):
            path = shutil.which("nvcc", path=f"{environment[home]}/bin")
    if not path:
        return "", f"CUDACXX={named} is no program" if named else "there is no nvcc on PATH"
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, env=dict(environment)
        )
    except OSError as error:
        return "", f"{path} does not run: {error}"
    release = re.search(r"release (\d+)\.(\d+)", done.stdout)
    if not release:
        return "", f"{path} --version does not state a release"
    version = int(release[1]), int(release[2])
    if version < OLDEST_NVCC:
        return "", f"nvcc {_dotted(version)} at {path} is older than {_dotted(OLDEST_NVCC)}"
    return path, ""


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def main() -> None:
    """Print the answer for CMakeLists.txt."""
    try:
        target = decide(os.environ)
    except Refusal as refusal:
        sys.exit(str(refusal))
    print(json.dumps({**target._asdict(), "label": target.label}))


if __name__ == "__main__":
    main()
