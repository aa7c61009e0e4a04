"""What is compiled for an environment, as the build decides it; nothing is compiled here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.csrc import packaging

target = packaging.load("tglo_target")
ROOT = packaging.FOLDER.parents[1]
linux = pytest.mark.skipif(sys.platform != "linux", reason="the extension is built on Linux only")


def environment(
    tmp_path: Path, cuda: str | None, release: str | None, **more: str
) -> dict[str, str]:
    """Return variables that show a torch (a CUDA build or not) and an nvcc, or none."""
    nvcc = str(packaging.fake_nvcc(tmp_path / "bin", release)) if release else "/nowhere"
    include = packaging.fake_torch(tmp_path, cuda=cuda)
    return {"TGLO_TORCH_INCLUDE": str(include), "PATH": nvcc, **more}


@pytest.mark.parametrize(
    ("wish", "cuda", "release", "label", "why"),
    [
        ("", "13.0", "13.0", "cuda", ""),
        ("AUTO", "13.0", "13.0", "cuda", ""),
        ("AUTO", "13.0", "12.8", "cuda", ""),
        ("AUTO", "13.0", "12.6", "cpu", "nvcc 12.6 at .*/nvcc is older than 12.8"),
        ("AUTO", "13.0", None, "cpu", "there is no nvcc on PATH"),
        ("AUTO", None, "13.0", "cpu", "torch is no CUDA build; TGLO_CUDA=ON compiles"),
        ("ON", None, "13.0", "cuda", ""),
        ("on", "13.0", "13.0", "cuda", ""),
        ("OFF", "13.0", "13.0", "cpu", "TGLO_CUDA is OFF"),
        ("0", "13.0", "13.0", "cpu", "TGLO_CUDA is OFF"),
    ],
)
def test_cuda_kernels(
    tmp_path: Path, wish: str, cuda: str | None, release: str | None, label: str, why: str
) -> None:
    given = environment(tmp_path, cuda, release, TGLO_CUDA=wish)
    decided = target.decide(given, "linux")
    assert decided.extension and decided.label == label and decided.torch_version == "2.13"
    assert bool(decided.nvcc) == (label == "cuda")
    assert re.search(why, decided.why) if why else decided.why == ""


def test_a_cuda_build_is_known_by_its_library_too(tmp_path: Path) -> None:
    given = environment(tmp_path, None, "13.0")
    (tmp_path / "torch/version.py").unlink()
    assert target.decide(given, "linux").label == "cpu"
    (tmp_path / "torch/lib").mkdir()
    (tmp_path / "torch/lib/libc10_cuda.so").touch()
    assert target.decide(given, "linux").label == "cuda"


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH", "CUDACXX"])
def test_nvcc_beside_path(tmp_path: Path, variable: str) -> None:
    folder = packaging.fake_nvcc(tmp_path / "toolkit/bin")
    place = folder / "nvcc" if variable == "CUDACXX" else folder.parent
    given = environment(tmp_path, "13.0", None, **{variable: str(place)})
    assert target.decide(given, "linux").nvcc == str(folder / "nvcc")


@pytest.mark.parametrize(
    ("release", "more", "message"),
    [
        (None, {"TGLO_CUDA": "ON"}, "there is no nvcc on PATH.\nPut nvcc 12.8 or later on PATH"),
        ("12.4", {"TGLO_CUDA": "ON"}, "older than 12.8.\nPut nvcc 12.8 or later on PATH"),
        ("13.0", {"TGLO_CUDA": "ON", "CUDACXX": "/no/nvcc"}, "CUDACXX=/no/nvcc is no program"),
        ("13.0", {"TGLO_CUDA": "YEP"}, "TGLO_CUDA is 'YEP'; use AUTO, ON or OFF"),
        ("13.0", {"TGLO_NO_EXTENSION": "yep"}, "TGLO_NO_EXTENSION is 'yep'; use 1, or unset it"),
        ("13.0", {"TGLO_CUDA": "ON", "TGLO_NO_EXTENSION": "1"}, "contradict each other; unset one"),
    ],
)
def test_refusals_name_the_remedy(
    tmp_path: Path, release: str | None, more: dict[str, str], message: str
) -> None:
    with pytest.raises(target.Refusal) as caught:
        target.decide(environment(tmp_path, "13.0", release, **more), "linux")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("version", "stable", "has"),
    [
        ("2.10", True, "those of torch 2.10"),
        ("2.13", False, "those of torch 2.13"),
        ("", True, "none"),
    ],
)
def test_a_torch_without_stable_headers(
    tmp_path: Path, version: str, stable: bool, has: str
) -> None:
    include = tmp_path / "torch/include"
    if version:
        packaging.fake_torch(tmp_path, version=version, stable=stable)
    with pytest.raises(target.Refusal) as caught:
        target.decide({"TGLO_TORCH_INCLUDE": str(include)}, "linux")
    message = str(caught.value)
    assert f"{include} has {has}." in message and "TGLO_NO_EXTENSION=1" in message
    requirement = next(
        line for line in (ROOT / "pyproject.toml").read_text().split() if "torch>" in line
    )
    assert f"pip install {requirement.strip(',')}" in message


def test_without_extension(tmp_path: Path) -> None:
    decided = target.decide({"TGLO_NO_EXTENSION": "1"}, "linux")
    assert not decided.extension and decided.label == "bare"
    for system in ("darwin", "win32"):
        decided = target.decide({}, system)
        assert not decided.extension and "on Linux only" in decided.why
    with pytest.raises(target.Refusal, match="on Linux only, this is darwin"):
        target.decide({"TGLO_CUDA": "ON"}, "darwin")


def test_a_fuller_build_is_preferred() -> None:
    labels = [
        target.Target(False).label,
        target.Target(True).label,
        target.Target(True, nvcc="nvcc").label,
    ]
    assert labels == sorted(labels) == ["bare", "cpu", "cuda"]


def answer(python: Path, **variables: str) -> tuple[int, str]:
    """Run the file as CMake does, with a Python of its own."""
    own = {
        name: value
        for name, value in os.environ.items()
        if name not in ("VIRTUAL_ENV", "PYTHONPATH")
    }
    done = subprocess.run(
        [python, packaging.FOLDER / "tglo_target.py"],
        env={**own, "TGLO_CUDA": "OFF", **variables},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout or done.stderr


@linux
def test_torch_is_looked_for_in_the_target_environment(tmp_path: Path) -> None:
    venv.create(tmp_path / "target")
    python = tmp_path / "target/bin/python"
    status, text = answer(python)
    assert status == 1
    assert f"there is no torch for {python}" in text and "Install torch first" in text
    assert "TGLO_NO_EXTENSION=1" in text and "TGLO_TORCH_INCLUDE=" in text

    elsewhere = tmp_path / "elsewhere"  # like a cluster's modules
    on_path = packaging.fake_torch(elsewhere)
    status, text = answer(python, PYTHONPATH=str(elsewhere))
    assert json.loads(text)["torch_include"] == str(on_path)

    site = next((tmp_path / "target/lib").glob("python*/site-packages"))
    include = packaging.fake_torch(site)
    isolation = tmp_path / "isolation"  # like pip's: what is installed is not seen
    isolation.mkdir()
    (isolation / "sitecustomize.py").write_text(
        "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]"
    )
    status, text = answer(python, PYTHONPATH=str(isolation))
    assert status == 0 and json.loads(text)["torch_include"] == str(include)

    venv.create(tmp_path / "other")  # like the one that python -m build makes
    status, text = answer(tmp_path / "other/bin/python", VIRTUAL_ENV=str(tmp_path / "target"))
    assert status == 0 and json.loads(text)["torch_include"] == str(include)


@linux
def test_torch_of_the_user_alone_is_found(tmp_path: Path) -> None:
    """pip install --user puts it there, and pip's isolation hides that too."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    include = packaging.fake_torch(tmp_path / f"lib/{version}/site-packages")
    outside = Path(sys._base_executable)  # an environment has no packages of the user
    status, text = answer(outside, PYTHONNOUSERSITE="1", PYTHONUSERBASE=str(tmp_path))
    assert status == 0, text
    assert json.loads(text)["torch_include"] == str(include)


def configure(tmp_path: Path, *flags: str, nvcc: bool = True) -> tuple[int, str]:
    """Run CMake up to the point where it would compile."""
    if sys.platform != "linux" or not shutil.which("cmake") or not shutil.which("ninja"):
        pytest.skip("needs Linux, cmake and ninja")
    include = packaging.fake_torch(tmp_path)
    path = os.environ["PATH"].split(os.pathsep)
    if not nvcc:
        path = [folder for folder in path if not Path(folder, "nvcc").exists()]
    own = {name: value for name, value in os.environ.items() if not name.startswith("CUDA")}
    done = subprocess.run(
        [
            *(shutil.which("cmake"), "-S", ROOT, "-B", tmp_path / "build", "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DTGLO_TORCH_INCLUDE={include}",
            *flags,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**own, "PATH": os.pathsep.join(path)},
    )
    return done.returncode, " ".join(done.stdout.split())


def test_cmake_takes_the_answer(tmp_path: Path) -> None:
    status, text = configure(tmp_path, "-DCMAKE_CXX_FLAGS=-O0")
    assert status == 0, text
    assert "CUDA kernels: left out, because" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-DTGLO_CUDA=ON"], "TGLO_CUDA=ON, but there is no nvcc on PATH. Put nvcc 12.8 or later"),
        (["-DSKBUILD_PROJECT_VERSION_FULL=0.1.0+cuda"], "the wheel is labelled cuda"),
    ],
)
def test_cmake_refuses(tmp_path: Path, flags: list[str], message: str) -> None:
    status, text = configure(tmp_path, *flags, nvcc=False)
    assert status == 1 and message in text


def test_cmake_compiles_nothing_on_request(tmp_path: Path) -> None:
    status, text = configure(tmp_path, "-DTGLO_NO_EXTENSION=ON")
    assert status == 0 and "nothing is compiled: TGLO_NO_EXTENSION is set" in text
