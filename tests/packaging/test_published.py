"""The sdist and the wheels made from it: all of the code, none of the weights, small."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tglo import __version__

pytest.importorskip("scikit_build_core")
ROOT = Path(__file__).parents[2]
BUILD = "import sys, tglo_backend; tglo_backend.build_sdist(sys.argv[1])"
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("TGLO_", "CMAKE_ARGS"))}


def run(*command: str | Path, **variables: str) -> None:
    done = subprocess.run(
        command, cwd=ROOT, env={**CLEAN, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-c", BUILD, folder, PYTHONPATH=str(ROOT / "csrc/packaging"))
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As conda-forge builds it: from the sdist, without isolation, an index or what the package needs to run."""
    folder = tmp_path_factory.mktemp("wheel")
    command = (sys.executable, "-m", "pip", "wheel", "-q", "-w", folder)
    run(
        *(*command, "--no-build-isolation", "--no-deps", "--no-index", sdist),
        TGLO_NO_EXTENSION="1",
    )
    (path,) = folder.iterdir()
    return path


def code(folder: str) -> set[str]:
    """The source files of a folder, without what is built into it."""
    endings = {".py", ".cpp", ".c", ".h", ".cu", ".cuh", ".typed"}
    paths = {path for path in (ROOT / folder).rglob("*") if path.suffix in endings}
    kept = {path.relative_to(ROOT).as_posix() for path in paths}
    return {name for name in kept if not name.startswith("tglo/kernels/")}


def test_the_sdist_has_what_a_build_needs_and_little_else(sdist: Path) -> None:
    assert sdist.name == f"tglo-{__version__}.tar.gz" and sdist.stat().st_size < 1_500_000
    with tarfile.open(sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert names >= code("tglo") | code("kernels") | code("csrc")
    assert names >= {"pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", "PKG-INFO"}
    assert names >= {"tglo/demo/WEIGHTS.md", "tglo/shapes/WEIGHTS.md"}
    assert not [name for name in names if name.endswith((".safetensors", ".so", ".png", ".pyc"))]
    unwanted = ("tests/", "docs/", "benchmarks/", "examples/", ".git", "build/", "tglo/kernels/")
    assert not [name for name in names if name.startswith(unwanted)]


def test_a_published_wheel_has_no_weights_and_no_label(wheel: Path) -> None:
    assert wheel.name == f"tglo-{__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 1_500_000
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"tglo-{__version__}.dist-info/METADATA").decode()
    assert names >= code("tglo") | {f"tglo/{name}" for name in code("kernels")}
    assert f"tglo-{__version__}.dist-info/licenses/LICENSE" in names
    assert not [name for name in names if name.endswith(".safetensors") or "/base/" in name]
    said = Parser().parsestr(metadata)
    assert said["License-Expression"] == "Apache-2.0" and said.get_all("Project-URL")
    assert "torch<2.14,>=2.11" in said.get_all("Requires-Dist", [])


def test_without_its_weights_a_wheel_says_how_to_get_them(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tglo.shapes", "shapes"],
        cwd=tmp_path,
        env={**CLEAN, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert f"{tmp_path}/site/tglo/shapes/base is not there" in last
    assert 'pip install ".[train]" in a checkout of tglo brings them' in last
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
