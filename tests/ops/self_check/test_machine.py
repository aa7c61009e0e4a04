"""What the self-check asks of a GPU."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.ops.self_check.imagined import ImaginedGPU, gpu  # noqa: F401  (a fixture)
from tglo.ops.self_check import machine, record
from tglo.ops.self_check.figures import Figure

GPU = torch.device("cuda", 0)


class Event:
    """An event that has happened once it was asked three times, unless it never does."""

    left = 3

    def record(self, stream: object) -> None:
        assert stream == "the stream"

    def query(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.fixture
def event(monkeypatch: pytest.MonkeyPatch) -> type[Event]:
    class Own(Event):
        pass

    monkeypatch.setattr(torch.cuda, "Event", Own)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the stream")
    return Own


def test_kernels_that_end_are_waited_for(event: type[Event]) -> None:
    machine.wait(GPU)


def test_kernels_that_do_not_end_are_not(
    event: type[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    event.left = -1
    monkeypatch.setattr(machine, "PATIENCE", 0.01)
    with pytest.raises(machine.Stuck, match="have not ended after 0 seconds"):
        machine.wait(GPU)


def test_what_is_broken_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device) -> None:
        raise RuntimeError("CUDA error:\n  an illegal memory access")

    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    assert machine.broken(GPU) == "CUDA error: an illegal memory access"
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert machine.broken(GPU) == ""


def test_a_card_with_and_without_an_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(name="NVIDIA H100", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found)
    monkeypatch.setattr(machine, "_driver", lambda: "580.65")
    machine.card.cache_clear()
    assert machine.card(0) == ("NVIDIA H100", "9.0", "", "580.65")
    machine.card.cache_clear()
    found.uuid = "GPU-12"
    assert machine.card(0).identity == "GPU-12"
    machine.card.cache_clear()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27", "580.65.06"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  590.12  Release", "590.12"),
        (None, ""),
    ],
)
def test_the_driver_is_what_the_kernel_says(
    text: str | None, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> str:
        if text is None:
            raise FileNotFoundError
        return text

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", str, raising=False)
    assert machine._driver() == version


def _write(number: int, gate: object, card: machine.Card, folder: str) -> None:
    import os

    os.environ["TGLO_SELF_CHECK_FOLDER"] = folder
    machine.card = lambda index: card  # type: ignore[assignment]
    gate.wait()  # type: ignore[attr-defined]
    for _ in range(20):
        assert record.write("cuda", "loss", 0, (Figure(f"form {number}", "loss", 0.0, 1.0),))
        assert record.read("cuda", "loss", 0) is not None


def test_processes_that_write_one_record_at_once(gpu: ImaginedGPU) -> None:
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(2)
    folder = str(gpu.folder)
    writers = [
        context.Process(target=_write, args=(number, gate, gpu.card, folder)) for number in (1, 2)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    (file,) = gpu.records()
    found = record.read("cuda", "loss", 0)
    assert found is not None and found[0][0].form in ("form 1", "form 2") and file.is_file()
