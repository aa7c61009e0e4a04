"""The self-check on a CUDA device: every form is right, and `auto` takes what passed; skipped without one."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.test_loss_gpu import KERNELS, runnable  # noqa: F401  (a fixture)
from tests.ops.loss_cases import make_case
from tglo import tgo_loss
from tglo.ops import OPERATORS, backend_for, backends

verdicts = pytest.importorskip(
    "tglo.ops.self_check.verdicts", reason="this checkout has no self-check"
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("family", list(verdicts.FAMILIES))
def test_small_forms_are_right(family: str, backend: str) -> None:
    device, wrong = torch.device("cuda", torch.cuda.current_device()), []
    with torch.no_grad():
        for form in verdicts.FAMILIES[family]():
            found = form.launch(backend == "triton", device)
            figure = form.judge(tuple(tensor.cpu() for tensor in found))
            if not figure.passed:
                wrong.append(str(figure))
    torch.cuda.synchronize()
    assert wrong == []


@pytest.mark.parametrize("op", OPERATORS)
def test_auto_takes_the_first_kernels_that_can_run(op: str) -> None:
    usable = [name for name in KERNELS if not backends()[name]]
    if not usable:
        pytest.skip("neither CUDA nor Triton kernels can run here")
    for dtype in (torch.bfloat16, torch.float32):
        assert backend_for(op, "cuda", dtype) == usable[0]
    assert backend_for(op, "cuda", torch.float64) == "reference"


def test_the_first_call_of_all_gives_what_the_second_gives() -> None:
    case = make_case((4, 4, 16, 24), torch.bfloat16)
    p, q, y = (x.detach().cuda() for x in (case.policy_pred, case.reference_pred, case.target))
    scores = case.scores.cuda()
    losses = [tgo_loss(p, y, scores, 0.5, reference_pred=q) for _ in range(2)]
    assert torch.equal(*losses) and losses[0].isfinite()
