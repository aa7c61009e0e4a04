"""The build backend: wishes from everywhere reach both the version and CMake."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.csrc import packaging
from tglo import __version__

pytest.importorskip("scikit_build_core")
target = packaging.load("tglo_target")
backend = packaging.load("tglo_backend")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no extension elsewhere")
ROOT = packaging.FOLDER.parents[1]
CUDA, NO_EXTENSION = "cmake.define.TGLO_CUDA", "cmake.define.TGLO_NO_EXTENSION"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CPU build of torch and an nvcc, and nothing asked for. Returns torch's include folder."""
    include = packaging.fake_torch(tmp_path)
    for name in ("CMAKE_ARGS", "CUDACXX", *target.VARIABLES):
        monkeypatch.setenv(name, "")  # so that what the backend sets is undone
    monkeypatch.setenv("TGLO_TORCH_INCLUDE", str(include))
    monkeypatch.setenv("PATH", str(packaging.fake_nvcc(tmp_path / "bin")), prepend=os.pathsep)
    monkeypatch.chdir(ROOT)
    return include


def version(state: str = "wheel") -> str:
    provider = backend.Version()
    provider.build_state(state)
    return provider.dynamic_metadata({}, {})["version"]


@pytest.mark.parametrize(
    ("settings", "variables", "label"),
    [
        (None, {}, "cpu"),
        (None, {"TGLO_CUDA": "ON"}, "cuda"),
        (None, {"TGLO_NO_EXTENSION": "1"}, "bare"),
        ({CUDA: "ON"}, {}, "cuda"),
        ({CUDA: ["OFF", "ON"]}, {}, "cuda"),
        ({f"skbuild.{CUDA}": "ON"}, {}, "cuda"),
        ({NO_EXTENSION: "ON"}, {}, "bare"),
        ({CUDA: "OFF"}, {"TGLO_CUDA": "ON"}, "cpu"),
        (None, {"CMAKE_ARGS": "-G Ninja -DTGLO_CUDA=ON -DX=1"}, "cuda"),
        ({CUDA: "ON"}, {"CMAKE_ARGS": "-D TGLO_CUDA:STRING=OFF"}, "cpu"),
        (None, {"CMAKE_ARGS": "-DTGLO_NO_EXTENSION=1"}, "bare"),
    ],
)
def test_version_and_cmake_hear_the_same(
    machine: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str] | None,
    variables: dict[str, str],
    label: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    told = backend._decided(settings)
    assert version() == f"{__version__}+{label}"
    assert (told.get("wheel.cmake") == "false") == (label == "bare")
    if label != "bare":
        assert (told[CUDA] == "ON") == (label == "cuda")
        assert told["cmake.define.TGLO_TORCH_INCLUDE"] == str(machine)
    assert not any(key.startswith("skbuild.") for key in told)


def test_an_sdist_and_its_wheels_have_no_label(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert version("sdist") == __version__
    (tmp_path / "unpacked/tglo").mkdir(parents=True)
    (tmp_path / "unpacked/PKG-INFO").touch()
    (tmp_path / "unpacked/tglo/__init__.py").write_text('__version__ = "1.2.3"\n')
    monkeypatch.chdir(tmp_path / "unpacked")
    assert version() == "1.2.3"


def test_a_refusal_ends_the_build_with_the_remedy_alone(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TGLO_TORCH_INCLUDE", "/nowhere/include")
    with pytest.raises(SystemExit, match="/nowhere/include has none.\nInstall such a torch first"):
        backend._decided(None)


def test_pip_makes_a_wheel_without_the_extension(tmp_path: Path) -> None:
    wishes = ("TGLO_", "CMAKE_ARGS")  # those of whoever runs the tests
    environment = {k: v for k, v in os.environ.items() if not k.startswith(wishes)}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "-q", "-w", tmp_path),
            *("--no-build-isolation", "--no-deps", "--no-index", ROOT),
        ],
        env={**environment, "TGLO_NO_EXTENSION": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.iterdir()
    assert wheel.name == f"tglo-{__version__}+bare-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert "tglo/__init__.py" in names and "tglo/kernels/loss.py" in names
    assert not [name for name in names if name.endswith(".so")]
    # From a checkout, unlike from an sdist, the demo and the shapes world come with their weights.
    weights = {name for name in names if name.startswith("tglo/") and name.endswith(".safetensors")}
    assert weights == {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "tglo").rglob("*.safetensors")
    }
