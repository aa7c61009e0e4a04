"""Where the machine code comes from: an extension that was built, or csrc/ compiled by nvcc."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.resources import sass
from benchmarks.resources.occupancy import RESERVED

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build" / "resources"
FLAGS = ("-std=c++20", "-O3", f"-I{ROOT / 'csrc'}")
"""As CMakeLists.txt has them."""
MORE_FLAGS = {"noise.cu": ("-fmad=false",)}


def tool(name: str) -> str:
    """Return the path of cuobjdump in Triton's wheel or on PATH, or ""."""
    spec = importlib.util.find_spec("triton")
    if spec is not None and spec.submodule_search_locations:
        path = Path(spec.submodule_search_locations[0]) / "backends/nvidia/bin" / name
        if path.exists():
            return str(path)
    return shutil.which(name) or ""


def _output(*command: str, folder: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def compile_sources(architectures: Sequence[int]) -> list[Path]:
    """Compile every file with kernels for each architecture; what is unchanged is taken from build/."""
    sources = [s for s in sorted(ROOT.glob("csrc/**/*.cu")) if "__global__" in s.read_text()]
    headers = sorted([*ROOT.glob("csrc/**/*.h"), *ROOT.glob("csrc/**/*.cuh")])
    common = "".join([nvcc_version(), *FLAGS[:2], *(h.read_text() for h in headers)])
    BUILT.mkdir(parents=True, exist_ok=True)
    wanted = [(source, number) for number in architectures for source in sources]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(lambda pair: _compiled(*pair, common), wanted))


def _compiled(source: Path, architecture: int, common: str) -> Path:
    more = MORE_FLAGS.get(source.name, ())
    text = "".join([common, *more, source.read_text()])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    result = BUILT / f"{source.stem}.{digest}.sm_{architecture}.cubin"
    if not result.exists():
        unfinished = result.with_suffix(f".{os.getpid()}")
        options = ("-cubin", f"-arch=sm_{architecture}", *FLAGS, *more, "-o", str(unfinished))
        _output("nvcc", *options, str(source))
        unfinished.replace(result)
    return result


def nvcc_version() -> str:
    """Return nvcc's release, as in "13.0, V13.0.88", or "" without nvcc."""
    if not shutil.which("nvcc"):
        return ""
    found = re.search(r"release (.*)", _output("nvcc", "--version"))
    return found[1] if found else "unknown"


def read_cubin(path: Path) -> list[dict[str, Any]]:
    """Return name, resources and instructions of every kernel in a file NAME.sm_90.cubin."""
    dump = tool("cuobjdump")
    code = sass.functions(_output(dump, "--dump-sass", str(path)))
    threads = _threads(_output(dump, "--dump-elf", str(path)))
    found = re.search(r"\.sm_(\d+)\w*\.cubin$", path.name)
    assert found is not None, path
    rows = []
    for match in re.finditer(
        r"Function (\S+?):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)",
        _output(dump, "--dump-resource-usage", str(path)),
    ):
        name = match[1]
        numbers = dict(
            zip(("registers", "stack", "shared", "local"), match.groups()[1:], strict=True)
        )
        row: dict[str, Any] = {key: int(number) for key, number in numbers.items()}
        row |= {"name": name, "sm": int(found[1]), "threads": threads.get(name, 0)}
        if row["sm"] >= 90 and row["shared"] >= RESERVED:
            row["shared"] -= RESERVED  # counted there by this tool, for what uses any of its own
        rows.append(row | {"code": code[name]})
    return rows


def _threads(elf: str) -> dict[str, int]:
    """Read the launch bounds of kernels from their attributes."""
    found: dict[str, int] = {}
    name, wanted = "", False
    for line in elf.splitlines():
        if match := re.match(r"\.nv\.info\.(\S+)$", line.strip()):
            name = match[1]
        elif "EIATTR_MAX_THREADS" in line or "EIATTR_REQNTID" in line:
            wanted = True
        elif wanted and (match := re.search(r"Value:\s+(0x\w+) (0x\w+) (0x\w+)", line)):
            x, y, z = (int(number, 16) for number in match.groups())
            found[name], wanted = x * y * z, False
    return found


def read_extension(library: str) -> list[dict[str, Any]]:
    """Return the kernels in an extension, of each of its architectures."""
    with tempfile.TemporaryDirectory() as folder:
        _output(tool("cuobjdump"), "--extract-elf", "all", library, folder=Path(folder))
        return [row for path in sorted(Path(folder).iterdir()) for row in read_cubin(path)]
