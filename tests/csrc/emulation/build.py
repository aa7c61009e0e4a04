"""Builds the CUDA kernels of csrc/ for the CPU; TGLO_EMULATED_DEVICE chooses the device where the result runs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.csrc.emulation.rewrite import rewrite_tree

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[3]
CSRC = ROOT / "csrc"
RUNTIME = HERE / "runtime"
PRELUDE = RUNTIME / "emulation.h"  # in front of every emulated source
COMPILER = shutil.which("g++") or ""
WARNINGS = ("-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-psabi", "-Wno-sign-compare")
# Nothing that csrc/ does not promise: no fused products, bytes read as other types.
LANGUAGE = ("-std=c++20", "-g1", "-ffp-contract=off", "-fno-strict-aliasing", "-pthread", "-fPIC")
# A variable that was never written is a large number, in place of what lay there.
PLAIN = ("-O1", "-ftrivial-auto-var-init=pattern")
SANITIZERS = {
    "": PLAIN,
    # At -O1 the passes behind the checks take four times as long, and the cases as long as here.
    "address": ("-Og", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-O1", "-fsanitize=thread"),
}
INCLUDE = re.compile(r'^\s*#include\s+"([^"]+)"', re.MULTILINE)
ARCH = re.compile(r"\b(?:__CUDA_ARCH__|TGLO_EMULATED_ARCH)\b")
MOST_AT_ONCE = 2


def toolkit() -> Path | None:
    """The folder of CUDA's headers: a toolkit's, or those that triton brings."""
    places = [
        Path(os.environ[name]) / "include"
        for name in ("CUDA_HOME", "CUDA_PATH")
        if name in os.environ
    ]
    if nvcc := shutil.which("nvcc"):
        places.append(Path(nvcc).resolve().parents[1] / "include")
    places += sorted(Path("/usr/local").glob("cuda*/include"), reverse=True)
    for place in places:
        if all(
            (place / name).exists() for name in ("cuda_runtime.h", "cuda_bf16.hpp", "cuda_fp16.hpp")
        ):
            return place
    return None


def missing() -> str:
    """Why the emulation cannot be built here; empty if it can."""
    if not COMPILER:
        return "no g++"
    if toolkit() is None:
        return "no headers of the CUDA toolkit (CUDA_HOME, nvcc on PATH or /usr/local/cuda)"
    return ""


@dataclass(frozen=True)
class Build:
    """Objects in `folder`, kept by the contents of what they are made from.

    `change(name, text)` may plant something into a source of csrc/ before it is rewritten; `arch` is
    what kernels see as __CUDA_ARCH__, and a tenth of it the version of their code.
    """

    folder: Path
    sanitizer: str = ""
    arch: int = 900
    flags: tuple[str, ...] = ()
    csrc: Path = CSRC
    change: Callable[[str, str], str] | None = None
    tree: str = "csrc"

    def kernels(self) -> list[Path]:
        """The emulated CUDA kernels and what they run on, for linking with whatever calls them."""
        return self.compile(self.kernel_sources())

    def kernel_sources(self) -> list[Path]:
        tree = self.rewritten()
        return [*sorted(RUNTIME.glob("*.cpp")), *sorted(tree.rglob("*.cu"))]

    def rewritten(self) -> Path:
        tree = self.folder / self.tree
        with locked(tree):
            rewrite_tree(self.csrc, tree, self.change)
        return tree

    def compile(
        self, sources: Sequence[Path], flags: Sequence[str] = (), emulated: bool = True
    ) -> list[Path]:
        """Object files; `emulated`: with the runtime's header in front."""
        with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
            return list(
                pool.map(lambda source: self._object(source, tuple(flags), emulated), sources)
            )

    def link(self, objects: Sequence[Path], target: Path, flags: Sequence[str] = ()) -> Path:
        own = [flag for flag in SANITIZERS[self.sanitizer] if flag.startswith("-fsanitize")]
        command = [COMPILER, *map(str, objects), *own, "-pthread", *flags]
        with whole(target) as made:
            run([*command, "-o", str(made)])
        return target

    def _object(self, source: Path, flags: tuple[str, ...], emulated: bool) -> Path:
        tree = self.folder / self.tree
        files = sorted(included(source, (tree, RUNTIME, source.parent)))
        command = [COMPILER, *LANGUAGE, *WARNINGS, *self._settings(source), *self.flags, *flags]
        if any(file != PRELUDE and ARCH.search(file.read_text()) for file in files):
            command.append(f"-DTGLO_EMULATED_ARCH={self.arch}")  # objects of the others serve all
        if emulated:
            command += ["-include", "emulation.h"]
        content = hashlib.sha256(repr([*command, str(source)]).replace(self.tree, "").encode())
        for file in files:
            content.update(file.read_bytes())
        target = self.folder / "objects" / f"{source.stem}-{content.hexdigest()[:20]}.o"
        if not target.exists():
            with whole(target) as made:
                folders = [f"-I{RUNTIME}", f"-I{tree}"]
                run([*command, *folders, "-x", "c++", "-c", str(source), "-o", str(made)])
        return target

    def _settings(self, source: Path) -> list[str]:
        # The runtime switches stacks under the sanitizers' feet, and tells them so itself.
        if source.parent == RUNTIME:
            sanitizing = {
                "": [],
                "address": ["-DTGLO_EMULATION_ASAN"],
                "thread": ["-DTGLO_EMULATION_TSAN"],
            }
            settings = ["-O2", *sanitizing[self.sanitizer]]
        else:
            settings = list(SANITIZERS[self.sanitizer])
        return [*settings, f"-isystem{toolkit()}"]


def included(source: Path, folders: Sequence[Path]) -> set[Path]:
    """The source and all files of `folders` that it includes, and those that these include."""
    found: set[Path] = set()
    left = [source, PRELUDE, RUNTIME / "cooperative_groups.h"]
    while left:
        file = left.pop()
        if file in found:
            continue
        found.add(file)
        for name in INCLUDE.findall(file.read_text()):
            left += [
                folder / name for folder in (*folders, file.parent) if (folder / name).exists()
            ][:1]
    return found


def run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[:6000]}")


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A file that is there whole or not at all, whoever else makes it at the same time."""
    target.parent.mkdir(parents=True, exist_ok=True)
    made = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        yield made
        made.replace(target)
    finally:
        made.unlink(missing_ok=True)


@contextmanager
def locked(tree: Path) -> Iterator[None]:
    """One process at a time writes a tree."""
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tree.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def default_folder() -> Path:
    """Kept from run to run: build/ is git's to ignore."""
    return Path(os.environ.get("TGLO_EMULATION_BUILD") or ROOT / "build/emulation")


def driver(build: Build) -> Path:
    """The program that runs the cases."""
    target = build.folder / f"driver-{build.sanitizer or 'plain'}-{build.tree}"
    with locked(target):  # who comes second finds the objects
        objects = build.kernels() + build.compile(sorted((HERE / "driver").glob("*.cpp")))
        cpu = [build.folder / build.tree / name for name in ("loss/cpu.cpp", "noise/cpu.cpp")]
        objects += build.compile(cpu, ["-DTGLO_INSTRUCTION_SET=baseline"], emulated=False)
        return build.link(objects, target)
