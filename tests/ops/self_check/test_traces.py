"""Where nothing can be launched (a trace, a capture, fake tensors), "auto" goes by what is known."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.ops.loss_cases import make_case
from tests.ops.self_check.imagined import (  # noqa: F401  (a fixture)
    ImaginedGPU,
    chosen,
    gpu,
    halved,
    loss_of,
    messages,
)
from tglo import ops, tgo_loss
from tglo.ops.self_check import machine, verdicts


def compiled_loss() -> torch.Tensor:
    torch._dynamo.reset()
    return make_case((4, 100), torch.float32).call(
        torch.compile(tgo_loss, fullgraph=True, backend="aot_eager")
    )


def test_a_trace_does_not_check(gpu: ImaginedGPU, caplog: pytest.LogCaptureFixture) -> None:
    case = make_case((4, 100), torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(tgo_loss, fullgraph=True, backend="aot_eager")
    by_reference = case.call(compiled)
    assert not gpu.launched
    assert torch.equal(by_reference, loss_of(backend="reference"))
    (message,) = messages(caplog)
    assert "backend cuda has not been checked there" in message
    assert "run a step outside first, or `tglo doctor`" in message
    loss_of()  # settles it: the compiled function is compiled anew, with the kernels
    count = len(gpu.launched)
    assert count and torch.equal(case.call(compiled), loss_of(backend="cuda"))
    assert len(gpu.launched) == count


def test_a_trace_takes_what_the_disk_knows(
    gpu: ImaginedGPU, caplog: pytest.LogCaptureFixture
) -> None:
    assert chosen() == "cuda"
    gpu.forget()
    compiled_loss()
    assert not gpu.launched and not messages(caplog)
    assert not verdicts.trusted  # a trace settles nothing
    gpu.faults["cuda"] = halved
    verdicts.examine("cuda", "loss", 0)
    assert chosen() == "triton"
    gpu.forget()
    compiled_loss()
    (message,) = messages(caplog)[-1:]
    assert "backend triton, because backend cuda failed its self-check" in message


def test_a_trace_is_compiled_with_kernels_that_are_known(gpu: ImaginedGPU) -> None:
    loss_of()
    torch._dynamo.reset()
    graphs = []

    def keep(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph.print_readable(print_output=False))
        return graph

    make_case((4, 100), torch.float32).call(torch.compile(tgo_loss, fullgraph=True, backend=keep))
    assert "torch.ops.tglo.tgo_loss.default" in graphs[0]


@pytest.mark.parametrize("known", [False, True])
def test_a_capture_does_not_check(
    gpu: ImaginedGPU, known: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if known:
        chosen()
        gpu.forget()
    with monkeypatch.context() as capture:
        capture.setattr(torch.cuda, "is_available", lambda: True)
        capture.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert chosen() == ("cuda" if known else "reference")
        loss_of()
    assert not gpu.launched
    assert len(messages(caplog)) == (0 if known else 1)
    loss_of()
    assert chosen() == "cuda" and bool(gpu.launched) is not known


def test_fakes_and_transforms_do_not_check(gpu: ImaginedGPU) -> None:
    with FakeTensorMode() as mode:
        assert loss_of().shape == ()
        fake = mode.from_tensor(torch.zeros(3, 4))
    assert not machine.may_launch(fake) and machine.may_launch(torch.zeros(3, 4))
    other, scores = torch.zeros(2, 3), torch.tensor([0.0, 1.0])
    torch.func.grad(lambda p: tgo_loss(p, other, scores, 0.5, reference_error=torch.ones(2)))(
        torch.ones(2, 3)
    )
    assert ops.backend_for("tgo_loss", "meta", torch.float32) == "reference"
    assert not gpu.launched
