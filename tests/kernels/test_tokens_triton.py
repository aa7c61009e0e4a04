"""The Triton kernels over rows of logits without a GPU: interpreted against the formulas, and compiled
for three GPUs, in processes of their own.
"""

from __future__ import annotations

import importlib.util
import json

import pytest

from tests.kernels.test_loss_triton import run_python, triton_version

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)

INTERPRET = """
import torch
from tests.ops.token_cases import assert_as_good_as_eager, assert_loss_is_right, make_token_case
from tglo.ops import token_chunks, token_rows
from tglo.ops import tokens as operators
from tglo.kernels import tokens as kernels

kernels.BLOCK = 16  # several blocks of everything
operators.row_kernel = lambda name, backend: getattr(kernels, name)

for rows in (1024, 5):
    token_chunks.CHUNK_ROWS = rows
    for shape, dtype in (((1, 1, 4, 16), torch.float32), ((3, 5, 8, 37), torch.bfloat16),
                         ((2, 4, 8, 100), torch.float16)):
        # "reference" chooses the plain rows, which are Triton's here
        assert_as_good_as_eager(make_token_case(shape, dtype, bias=rows == 5), backend="reference")
for form in ("hidden", "log_prob", "error"):
    for reduction in ("mean", "sum", "none"):
        case = make_token_case((3, 6, 8, 37), torch.float32, beta=0.7, temperature=0.3,
                               reduction=reduction)
        case.mask[1], case.mask[2] = False, True
        case.targets[2] = 5  # repeated
        assert_loss_is_right(case, backend="reference", form=form)
        same = make_token_case((3, 6, 8, 37), torch.float32, distance=0.0)
        _, stats = same.loss(form, backend="reference", return_stats=True)
        assert stats.implicit_score.tolist() == [0.0] * 3

# No token masked, an empty batch, an unknown token; the same bits twice; poisoned memory.
none = make_token_case((2, 3, 4, 17), torch.float32, masked=0.0)
loss, stats = none.loss("error", backend="reference", return_stats=True)
assert stats.implicit_score.tolist() == [0.0] * 2 and loss.isfinite()
assert make_token_case((0, 3, 4, 17), torch.float32).loss(backend="reference").item() == 0.0
first, second = (case.loss(backend="reference") for _ in range(2))
real = torch.empty
torch.empty = lambda *a, **k: real(*a, **k).fill_(float("nan"))
poisoned = case.loss(backend="reference")
torch.empty = real
assert torch.equal(first, second) and torch.equal(first, poisoned)
case.targets[2, 0] = 37
assert case.log_prob(backend="reference")[2, 0].isnan()

# Rows from `count` on are left alone, whatever they hold, in every dtype of a gradient.
logits = torch.randn(4, 37)
logits[3] = float("nan")
targets, order, count = torch.arange(8), torch.randperm(8), torch.tensor(5)
out, lse = torch.full((8,), 7.0), torch.full((8,), 7.0)
kernels.token_rows(logits, None, targets, order, count, 2, out, lse)
plain = torch.zeros(8), torch.zeros(8)
token_rows.token_rows(logits.clone(), None, targets, order, count, 2, *plain)
torch.testing.assert_close(out[order[2:5]], plain[0][order[2:5]])
assert (out[order[5:]] == 7).all() and (out[order[:2]] == 7).all()
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    gradient = torch.full((4, 37), float("nan"), dtype=dtype)
    arguments = None, targets, order, count, 2, lse, torch.randn(8)
    kernels.token_rows_gradient(logits, *arguments, gradient)
    expected = logits.clone()
    token_rows.token_rows_gradient(expected, *arguments, expected)
    # the interpreter cuts bfloat16 off where a GPU rounds
    torch.testing.assert_close(gradient.float(), expected, rtol=0, atol=2 * torch.finfo(dtype).eps)
    assert not gradient[3].any()

# Tokens that cannot be have minus infinity.
low = torch.tensor([[0.0, float("-inf"), 1.0], [float("-inf")] * 2 + [2.0]])
out, lse = torch.zeros(2), torch.zeros(2)
kernels.token_rows(low, None, torch.tensor([0, 2]), torch.arange(2), torch.tensor(2), 0, out, lse)
torch.testing.assert_close(out, torch.stack((low[0].log_softmax(0)[0], torch.zeros(()))))
print("PASSED")
"""

COMPILE = """
import json
from tests.kernels import triton_usage
from tglo.kernels import tokens as kernels

blocks = dict(BLOCK=kernels.BLOCK, LOWEST=kernels.LOWEST)
singles = "logits bias log_prob logsumexp grad".split()

def usage(kernel, element, capability, constants, options):
    types = {name: "*i64" for name in ("targets", "order", "count")}
    types |= {name: "*fp32" for name in singles} | {"gradient": "*" + element}
    return triton_usage.usage(
        kernel, element, capability, types, constants, options, ("vocabulary",))

for capability in (80, 90, 100):
    options = dict(num_warps=kernels.WARPS, maxnreg=kernels.REGISTERS)
    for constants in (blocks, dict(blocks, bias=None)):
        print(json.dumps(usage(kernels._rows, "fp32", capability, constants, options)))
    for element in ("fp32", "bf16", "fp16"):
        constants = dict(blocks, bias=None) if element == "fp16" else blocks
        options = dict(num_warps=kernels.WARPS)
        print(json.dumps(usage(kernels._rows_gradient, element, capability, constants, options)))
"""


@pytest.mark.skipif(
    triton_version() < (3, 7), reason="this triton's interpreter does not work with numpy 2.4"
)
def test_interpreted_values_and_gradients() -> None:
    done = run_python(INTERPRET, TRITON_INTERPRET="1")
    assert done.returncode == 0 and "PASSED" in done.stdout, done.stderr


def test_compiles_for_three_architectures_without_spills() -> None:
    done = run_python(COMPILE, TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr
    usage = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(usage) == 3 * (2 + 3)
    for kernel in usage:
        assert kernel["stack"] == 0 and kernel["local"] == 0, kernel
        assert kernel["wide_loads"] >= 1 and kernel["float_atomics"] == 0, kernel
