"""The rules of the house, read from the source: who may import whom, and how long a file may be.

Imports inside functions and under TYPE_CHECKING count like any other.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tglo"

# From the ground up. A package imports from floors below its own, and from itself.
FLOORS = (
    (
        "batch_size",
        "coded",
        "columns",
        "devices",
        "philox",
        "redaction",
        "reference",
        "settings",
        "stopping",
    ),
    ("console", "files", "plugins"),
    ("ops", "pages"),
    ("data", "threshold"),
    ("losses",),
    ("noise",),
    ("objectives",),
    ("rewards",),
    ("shapes",),
    ("models",),
    ("bench", "doctor", "plan"),
    ("cache",),
    ("generation",),
    ("train",),
    ("evaluate", "look", "rate", "watch"),
    ("demo", "sweep"),
    ("commands",),
    ("cli",),
    ("__main__",),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
AT_THE_ROOT = {
    "__main__",
    "batch_size",
    "cli",
    "coded",
    "columns",
    "devices",
    "doctor",
    "philox",
    "redaction",
    "settings",
    "stopping",
}
# Third-party packages that have one home, as a pattern of paths below tglo/.
HOMES = {"diffusers": r"models/", "deepspeed": r"train/engines/deepspeed\.py$"}
MOST_LINES = 350
CODE = {".py", ".cpp", ".cu", ".cuh", ".h", ".c"}


def modules() -> dict[str, Path]:
    """Dotted name -> file, of everything in tglo/; a package goes by its own name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[1] != "kernels":
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports: modules, or names in them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str) -> str | None:
    """The module of tglo that an imported name is, or lies in."""
    while name.startswith("tglo."):
        if name in MODULES:
            return name
        name = name.rpartition(".")[0]
    return None


ARROWS = {
    module: {found for name in imported(path) if (found := within(name)) and found != module}
    for module, path in MODULES.items()
}


def package(module: str) -> str:
    return module.split(".")[1]


def is_face(module: str) -> bool:
    """Whether a module is a package's __init__, which hands names on."""
    return MODULES[module].name == "__init__.py"


def test_the_root_holds_what_is_listed() -> None:
    files = {path.stem for path in SOURCE.glob("*.py")} - {"__init__"}
    assert files == AT_THE_ROOT
    folders = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert files | folders == set(FLOOR)
    assert sum(path.is_file() for path in SOURCE.iterdir() if path.suffix != ".so") <= 13


def test_imports_go_downwards() -> None:
    upwards = [
        f"{module} -> {target}"
        for module, targets in ARROWS.items()
        for target in targets
        if module != "tglo" and package(module) != package(target)
        if FLOOR[package(module)] <= FLOOR[package(target)]
    ]
    assert not upwards


def test_no_circles() -> None:
    """Inside a package; between packages the floors rule them out."""
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        assert module not in way, f"a circle: {' -> '.join([*way[way.index(module) :], module])}"
        if module not in done:
            for target in ARROWS[module]:
                if not is_face(target):
                    visit(target, [*way, module])
            done.add(module)

    for module in MODULES:
        if not is_face(module):
            visit(module, [])


@pytest.mark.parametrize("library", HOMES)
def test_a_library_has_one_home(library: str) -> None:
    users = {
        path.relative_to(SOURCE).as_posix()
        for path in MODULES.values()
        if any(name.split(".")[0] == library for name in imported(path))
    }
    assert users and all(re.match(HOMES[library], user) for user in users)


def test_kernels_are_used_by_operators_alone() -> None:
    for module, path in MODULES.items():
        if "tglo.kernels" in path.read_text():
            assert package(module) == "ops", module


def test_torch_headers_stay_in_the_bindings() -> None:
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in CODE]
    users = {p for p in sources if re.search(r'#include\s*[<"](torch|ATen|c10)/', p.read_text())}
    assert users and all(path.parent.name == "bindings" for path in users)


def test_no_file_is_too_long() -> None:
    files = [p for name in ("tglo", "kernels", "csrc") for p in (ROOT / name).rglob("*")]
    lengths = {
        path.relative_to(ROOT).as_posix(): path.read_text().count("\n")
        for path in files
        if path.suffix in CODE
    }
    assert not {path: length for path, length in lengths.items() if length > MOST_LINES}
