"""The self-check on emulated GPUs: csrc's CUDA kernels pass it, and fail it once something is wrong with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.csrc.emulation.build import missing
from tests.csrc.emulation.extension.build import build_extension
from tests.kernels.test_loss_triton import triton_version

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=f"the emulation needs {missing()}"),
    pytest.mark.timeout(600),  # compiling, the first time
]

FIRST = """
import json, logging, os, sys
from tests.csrc.emulation.extension.pretend import pretend
pretend(os.environ["TGLO_EMULATED_EXTENSION"])
import torch
from tests.ops.loss_cases import make_case
from tests.ops.token_cases import make_token_case
from tglo import noise, ops, tgo_loss
from tglo.noise import Key
from tglo.ops.self_check import verdicts
torch.set_num_threads(1)
told = []
class Keep(logging.Handler):
    def emit(self, record):
        if record.levelno >= logging.WARNING:
            told.append(record.getMessage())
logging.getLogger("tglo").addHandler(Keep())

def backend(op):
    try:
        return ops.backend_for(op, "cpu", torch.bfloat16)
    except verdicts.BrokenDevice as error:
        return f"BrokenDevice: {error}"

def report(**more):
    print(json.dumps({"told": told, **more}))
"""
CHOICE = f"""{FIRST}
chosen = {{op: backend(op) for op in ops.OPERATORS}}
forms = {{family: str(verdicts.look_up("cuda", family, 0)) for family in verdicts.FAMILIES}}
report(chosen=chosen, forms=forms)
"""
USE = f"""{FIRST}
def no_check(*arguments):
    raise AssertionError("the disk knew")
if sys.argv[1] == "known":
    verdicts._run = no_check
case = make_case((6, 3, 43), torch.bfloat16, draws=3)
(expected,) = torch.autograd.grad(case.call(tgo_loss, backend="reference"), case.policy_pred)
compiled = torch.compile(tgo_loss, fullgraph=True, backend="aot_eager")
for call in (tgo_loss, compiled):
    loss = case.call(call)
    (gradient,) = torch.autograd.grad(loss, case.policy_pred)
    torch.testing.assert_close(gradient, expected, rtol=0.01, atol=1e-4)
    torch.testing.assert_close(loss, case.call(tgo_loss, backend="reference"))
    assert torch.equal(loss, case.call(tgo_loss, backend="cuda"))
key = Key(1, torch.arange(3), 5)
drawn = [noise.normal(key, (33,), device="cpu", backend=b) for b in ("auto", "reference")]
assert torch.equal(*drawn)
tokens = make_token_case((2, 5, 8, 37), torch.float32)
torch.testing.assert_close(tokens.loss(), tokens.loss(backend="reference"))
report(chosen={{op: backend(op) for op in ops.OPERATORS}})
"""


@pytest.fixture(scope="module")
def plain() -> Path:
    return build_extension()


def faulty(name: str, text: str) -> str:
    """One fault for each kind of kernel: a wrong index, a wrong number, an illegal access."""
    faults = {
        "loss/cluster.cu": ("shared.coefficients[draw]", "shared.coefficients[0]"),
        "noise/noise.cu": ("noise_scale * noise.second", "noise_scale * noise.first"),
        "tokens/tokens.cu": (
            "const RowView row(chunk, index);",
            'emulation::fault(cudaErrorIllegalAddress, "planted"); const RowView row(chunk, index);',
        ),
    }
    if name in faults:
        right, wrong = faults[name]
        assert text.count(right) == 1, f"{name} has changed: plant the fault elsewhere"
        text = text.replace(right, wrong)
    return text


@pytest.fixture(scope="module")
def broken() -> Path:
    return build_extension(faulty, "faulty")


def run(
    code: str, extension: Path, device: str, folder: Path, *arguments: str, **environment: str
) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "TGLO_EMULATED_EXTENSION": str(extension),
            "TGLO_EMULATED_DEVICE": device,
            "TGLO_SELF_CHECK_FOLDER": str(folder),
            **environment,
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("device", ["h100", "a100", "small80"])
def test_the_kernels_pass(plain: Path, device: str, tmp_path: Path) -> None:
    """In clusters on the first, in a cooperative grid on the others; the small one goes round several times."""
    found = run(CHOICE, plain, device, tmp_path)
    assert set(found["chosen"].values()) == {"cuda"} and not found["told"]
    assert all(text.startswith("passed ") for text in found["forms"].values())
    assert len(list(tmp_path.iterdir())) == len(found["forms"])


def test_kernels_that_have_passed_are_used(plain: Path, tmp_path: Path) -> None:
    """In eager calls and in compiled ones, in the process that has checked and in the next."""
    for known in ("unknown", "known"):
        found = run(USE, plain, "h100", tmp_path, known)
        assert set(found["chosen"].values()) == {"cuda"} and not found["told"]


@pytest.mark.skipif(
    triton_version() < (3, 7), reason="this triton's interpreter does not work with numpy 2.4"
)
def test_faults_are_found_and_the_next_backend_is_taken(broken: Path, tmp_path: Path) -> None:
    """Triton's kernels are interpreted, which cuts bfloat16 off: its bits of the noise are wrong, too."""
    first = run(CHOICE, broken, "h100", tmp_path, TRITON_INTERPRET="1")
    chosen = first["chosen"]
    assert chosen["tgo_loss"] == chosen["tgo_loss_and_grad"] == "triton"
    assert chosen["diffuse"] == "reference"
    assert chosen["token_log_prob"].startswith("BrokenDevice: backend 'cuda' failed its self-check")
    assert "Start the same command again" in chosen["token_log_prob"]
    loss, noise = first["told"]
    where = "on GPU 0 (emulated h100, driver 580.65): backend"
    assert loss.startswith(f"loss {where} triton, because backend cuda failed its self-check:")
    assert "loss_and_grad, fp16, reference, mask, 3 draws: gradient off by" in loss
    assert noise.startswith(f"noise {where} reference, because backend cuda failed")
    assert "backend triton failed its self-check: diffuse, bf16: " in noise

    again = run(CHOICE, broken, "h100", tmp_path, TRITON_INTERPRET="1")
    assert again["chosen"]["token_log_prob"] == "triton"
    assert again["chosen"]["tgo_loss"] == "triton"
    assert len(again["told"]) == 3 and "(found 20" in again["told"][2]
