"""What "auto" chooses on a GPU, by the result of the kernels' self-check, and what it says."""

from __future__ import annotations

import logging
import threading

import pytest
import torch

from tests.ops.self_check.imagined import (  # noqa: F401  (a fixture)
    FORMS,
    ImaginedGPU,
    chosen,
    gpu,
    halved,
    loss_of,
    messages,
)
from tglo import ops, prediction_error
from tglo.ops.self_check import machine, verdicts


def test_cuda_after_its_check(gpu: ImaginedGPU, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tglo"):
        loss_of().backward()
        count = len(gpu.launched)
        loss_of().backward()
    assert set(gpu.launched) == {"cuda"} and len(gpu.launched) == count
    assert messages(caplog, logging.INFO) == [
        "tgo_loss on cpu tensors of torch.float32: backend cuda"
    ]
    assert not messages(caplog)
    # one check is for all operators of a kind and all their dtypes
    prediction_error(torch.zeros(2, 3).bfloat16(), torch.zeros(2, 3).bfloat16())
    assert len(gpu.launched) == count


def test_triton_where_cuda_is_wrong(gpu: ImaginedGPU, caplog: pytest.LogCaptureFixture) -> None:
    gpu.faults["cuda"] = halved
    expected = loss_of(backend="reference")
    with caplog.at_level(logging.INFO, logger="tglo"):
        for dtype in (torch.float32, torch.bfloat16):
            assert ops.backend_for("tgo_loss_and_grad", "cpu", dtype) == "triton"
        torch.testing.assert_close(loss_of(), expected)
    (message,) = messages(caplog)
    assert message.startswith(
        "loss on GPU 0 (Imagined H100, driver 580.65): backend triton, because backend cuda failed its "
        "self-check: tgo_loss, bf16, reference: gradient off by 0."
    )
    assert ", limit 0.0" in message and "tglo doctor" in message and f"of {FORMS} forms" in message
    assert set(gpu.launched) == {"cuda", "triton"}


def test_plain_pytorch_where_both_are_wrong(
    gpu: ImaginedGPU, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.faults.update(cuda=halved, triton=halved)
    with caplog.at_level(logging.INFO, logger="tglo"):
        first, second = loss_of(), loss_of()
        assert chosen() == "reference"
    assert torch.equal(first, loss_of(backend="reference")) and torch.equal(first, second)
    (message,) = messages(caplog)
    assert ": backend reference, because backend cuda failed" in message
    assert "; backend triton failed its self-check: tgo_loss, bf16" in message
    assert message.endswith("backend='cuda' or 'triton' insists on kernels")


def test_absent_kernels_are_told_with_the_remedy_if_nothing_takes_their_place(
    gpu: ImaginedGPU, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops.choice, "EXTENSION", ops.EXTENSION._replace(architectures=()))
    assert chosen() == "triton" and not messages(caplog)
    monkeypatch.setattr(ops.choice, "_HAS_TRITON", False)
    gpu.forget()
    assert chosen() == chosen() == "reference"
    (message,) = messages(caplog)
    assert "built without CUDA kernels; put nvcc 12.8 or later on PATH" in message
    assert message.endswith("backend triton: triton is not installed; pip install triton")


def test_kernels_built_for_other_gpus_are_told(
    gpu: ImaginedGPU, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = (
        "its kernels for sm_90 do not run on GPU 0 (CUDA error 209: the GPU); use backend='auto'"
    )
    monkeypatch.setattr(ops.choice, "_device_problem", lambda index: problem)
    monkeypatch.setattr(machine, "device", lambda index: torch.device("cpu", 0))
    assert ops.backend_for("tgo_loss", "cpu:0", torch.float32) == "triton"
    assert not messages(caplog)
    gpu.faults["triton"] = halved
    gpu.forget()
    for path in gpu.records():
        path.unlink()
    assert ops.backend_for("tgo_loss", "cpu:0", torch.float32) == "reference"
    (message,) = messages(caplog)
    assert f"because backend cuda: {problem.split(';')[0]}; backend triton failed" in message


def test_an_exception_counts_as_failed_in_this_process_alone(
    gpu: ImaginedGPU, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(outputs: list[torch.Tensor]) -> None:
        raise RuntimeError("no compiler was found")

    gpu.faults["cuda"] = fail
    assert chosen() == "triton"
    (message,) = messages(caplog)
    assert "tgo_loss, bf16, reference: RuntimeError: no compiler was found" in message
    assert [path.name.split("-")[0] for path in gpu.records()] == ["triton"]
    gpu.faults.clear()
    gpu.forget()
    assert chosen() == "cuda"


def test_other_bits_in_a_second_call_are_a_failure(
    gpu: ImaginedGPU, caplog: pytest.LogCaptureFixture
) -> None:
    def waver(outputs: list[torch.Tensor]) -> None:
        outputs[0] += 1e-9 * len(gpu.launched)

    gpu.faults["cuda"] = waver
    assert chosen() == "triton"
    assert "a second call gives other bits" in messages(caplog)[0]


def test_a_request_is_not_checked(gpu: ImaginedGPU) -> None:
    gpu.faults["cuda"] = halved
    loss_of(backend="cuda")
    assert not gpu.launched


def test_float64_is_not_the_kernels_business(
    gpu: ImaginedGPU, caplog: pytest.LogCaptureFixture
) -> None:
    assert ops.backend_for("tgo_loss", "cpu", torch.float64) == "reference"
    assert not gpu.launched and not messages(caplog)


def test_an_operator_without_forms_is_not_trusted(
    gpu: ImaginedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops.choice, "OPERATORS", (*ops.OPERATORS, "new"))
    assert ops.backend_for("new", "cpu", torch.float32) == "reference"


@pytest.mark.parametrize("value", ["0", "1"])
def test_the_check_can_be_left_out(
    gpu: ImaginedGPU, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TGLO_SELF_CHECK", value)
    gpu.faults.update(cuda=halved)
    assert chosen() == ("cuda" if value == "0" else "triton")
    assert bool(gpu.launched) is (value == "1")


def test_another_value_of_the_variable_is_refused(
    gpu: ImaginedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TGLO_SELF_CHECK", "no")
    with pytest.raises(ValueError, match="TGLO_SELF_CHECK is 'no'; set it to 0 or 1"):
        chosen()


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_the_check_waits_where_waiting_is_forbidden(
    mode: int, gpu: ImaginedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a program that looks for synchronisations with torch.cuda.set_sync_debug_mode."""
    modes, seen, waiting = [mode], set[int](), machine.synchronising
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(machine, "synchronising", lambda _: waiting(torch.device("cuda")))
    gpu.faults["cuda"] = lambda outputs: seen.add(modes[-1])
    assert chosen() == "cuda" and seen == {0}
    assert modes[-1] == mode


def test_threads_check_once(gpu: ImaginedGPU) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(chosen())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["cuda"] * 4
    count = len(gpu.launched)
    gpu.forget()
    for path in gpu.records():
        path.unlink()
    chosen()
    assert len(gpu.launched) == count


def test_no_memory_is_no_verdict(gpu: ImaginedGPU, caplog: pytest.LogCaptureFixture) -> None:
    def fail(outputs: list[torch.Tensor]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    gpu.faults.update(cuda=fail, triton=fail)
    loss_of(), loss_of()
    assert "not been checked there" in messages(caplog)[0] and len(messages(caplog)) == 1
    gpu.faults.clear()
    loss_of()
    assert chosen() == "cuda"


@pytest.mark.parametrize("stuck", [False, True])
def test_a_broken_context_ends_the_run_and_the_next_one_passes_over(
    gpu: ImaginedGPU, stuck: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = "CUDA error: an illegal memory access was encountered"

    def fail(device: torch.device) -> None:
        if gpu.launched[-1] == "cuda":
            raise machine.Stuck("the kernels have not ended") if stuck else RuntimeError(error)

    monkeypatch.setattr(machine, "wait", fail)
    monkeypatch.setattr(machine, "broken", lambda device: error)
    with pytest.raises(verdicts.BrokenDevice, match="Start the same command again: this is on"):
        chosen()
    gpu.forget()
    assert chosen() == "triton" and "cuda" not in gpu.launched
    (message,) = messages(caplog)
    assert ("have not ended" in message) if stuck else ("illegal memory access" in message)


def test_a_broken_context_that_no_disk_keeps(
    gpu: ImaginedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(device: torch.device) -> None:
        raise RuntimeError("CUDA error: misaligned address")

    monkeypatch.setattr(machine, "wait", fail)
    monkeypatch.setattr(machine, "broken", lambda device: "misaligned address")
    monkeypatch.setenv("TGLO_SELF_CHECK_FOLDER", "/proc/nothing")
    with pytest.raises(verdicts.BrokenDevice, match="Set TGLO_BACKEND=reference and start"):
        chosen()
