"""What is kept of a self-check on disk, and when it counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ops.self_check.imagined import (  # noqa: F401  (a fixture)
    ImaginedGPU,
    chosen,
    gpu,
    halved,
    messages,
)
from tglo.ops.self_check import machine


def test_a_second_process_does_not_check(gpu: ImaginedGPU) -> None:
    assert chosen() == "cuda"
    (record,) = gpu.records()
    content = json.loads(record.read_text())
    assert content["key"]["name"] == "Imagined H100" and content["key"]["driver"] == "580.65"
    gpu.forget()
    assert chosen() == "cuda" and not gpu.launched


def test_a_failure_is_kept_with_its_figures(
    gpu: ImaginedGPU, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.faults["cuda"] = halved
    assert chosen() == "triton"
    gpu.forget()
    assert chosen() == "triton" and not gpu.launched
    first, second = messages(caplog)
    told = second.index(" (found 20")
    assert first.startswith(second[:told]) and "`tglo doctor` checks again)" in second


@pytest.mark.parametrize("field", ["driver", "name", "capability", "identity"])
def test_another_card_or_driver_is_checked(gpu: ImaginedGPU, field: str) -> None:
    chosen()
    gpu.forget()
    gpu.card = gpu.card._replace(**{field: "another"})
    chosen()
    assert gpu.launched and len(gpu.records()) == 2


@pytest.mark.parametrize("field", ["torch", "triton", "code"])
def test_another_installation_is_checked(
    gpu: ImaginedGPU, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen()
    gpu.forget()
    known = machine.installation("cuda")
    monkeypatch.setattr(machine, "installation", lambda backend: {**known, field: "another"})
    chosen()
    assert gpu.launched


def test_the_code_is_that_of_the_kernels_and_their_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = tmp_path / "_C.so"
    binary.write_bytes(b"one")
    monkeypatch.setattr(machine, "EXTENSION", machine.EXTENSION._replace(path=str(binary)))
    first, triton = machine._digest("cuda"), machine._digest("triton")
    assert first == machine._digest("cuda") != triton
    binary.write_bytes(b"two")
    assert machine._digest("cuda") != first and machine._digest("triton") == triton


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _changed(path: Path) -> None:
    path.write_text(path.read_text().replace("gradient", "gradients", 1))


def _other(path: Path) -> None:
    path.write_text("[]")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [_torn, _changed, _other, _folder])
def test_a_damaged_record_is_made_again(
    gpu: ImaginedGPU, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    chosen()
    (record,) = gpu.records()
    damage(record)
    gpu.forget()
    assert chosen() == "cuda" and gpu.launched
    assert not messages(caplog)
    gpu.forget()
    chosen()
    assert bool(gpu.launched) is (damage is _folder)


def test_a_folder_that_cannot_be_written(
    gpu: ImaginedGPU, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TGLO_SELF_CHECK_FOLDER", "/proc/nothing")
    assert chosen() == "cuda" and not messages(caplog)


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TGLO_SELF_CHECK_FOLDER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert machine.records() == Path("/caches/tglo/self_check")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert machine.records() == Path("/home/somebody/.cache/tglo/self_check")
