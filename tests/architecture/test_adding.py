"""An objective, a reward and a kernel of one's own, a registry line each, are scored, cached and trained with.

(A model family: tests/models/families/test_toy.py.) In a process of its own, because the configuration's
choices follow from the registries when it is imported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.models.families.test_toy import manifest
from tests.preloaded import run

# As it would stand in tglo/ops/absolute.py.
KERNEL = '''
from __future__ import annotations
from typing import Any
import torch
from torch import Tensor
from tglo.ops import choice
from tglo.ops.library import implement, operator

def reference_error(prediction: Tensor, target: Tensor) -> Tensor:
    """mean |p - y| of every row, (B,) float64."""
    return (prediction - target).abs().flatten(1).mean(1, dtype=torch.float64)

def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    difference, = ctx.saved_tensors
    scale = (grad / difference[0].numel()).to(difference.dtype)
    return scale.reshape(-1, *[1] * (difference.dim() - 1)) * difference.sign(), None

def _keep(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(inputs[0] - inputs[1])

implement(
    "absolute_error",
    "(Tensor prediction, Tensor target) -> Tensor",
    reference_error,
    lambda prediction, target: prediction.new_empty(prediction.shape[:1], dtype=torch.float64),
)
torch.library.register_autograd("tglo::absolute_error", _gradient, setup_context=_keep)
choice.OPERATORS = (*choice.OPERATORS, "absolute_error")  # the registry line

def absolute_error(prediction: Tensor, target: Tensor, backend: str = "auto") -> Tensor:
    if choice.choose("absolute_error", prediction, backend) == "reference":
        return reference_error(prediction, target)
    return operator("absolute_error")(prediction, target)
'''

# As it would stand in tglo/objectives/absolute.py.
OBJECTIVE = '''
from __future__ import annotations
from dataclasses import dataclass
from kernel import absolute_error
from tglo.objectives import OBJECTIVES, Objective
from tglo.objectives.base import statistics_of_error
from tglo.objectives.micro_batch import mean_loss

@dataclass(frozen=True)
class AbsoluteConstants:
    scale: float = 1.0

class Absolute(Objective):
    """The absolute error, by the kernel."""

    needs_reference = False
    constants_type = AbsoluteConstants

    def __call__(self, batch, temperature):
        error = absolute_error(batch.policy_pred, batch.draw.target, self.settings.backend)
        return mean_loss(self.constants.scale * error, batch), statistics_of_error(batch, error)

OBJECTIVES["absolute"] = Absolute  # the registry line
'''

# As it would stand in tglo/rewards/darkness.py.
REWARD = '''
import numpy as np
from tglo.rewards import SCORERS

def darkness(images, prompts):
    """255 minus the mean grey level."""
    return [255.0 - np.asarray(image).mean() for image in images]

SCORERS["darkness"] = darkness  # the registry line
'''

SCRIPT = """
import sys
from pathlib import Path
import torch
import kernel, objective, reward
from tglo.cli import main
from tglo.train import load_config

prediction = torch.randn(3, 4, 5, requires_grad=True)
target = torch.randn(3, 4, 5)
for chosen in ("auto", "reference"):
    error = kernel.absolute_error(prediction, target, chosen)
    (gradient,) = torch.autograd.grad(error.sum(), prediction)
    assert torch.allclose(gradient, (prediction - target).sign() / 20)
torch.library.opcheck(torch.ops.tglo.absolute_error.default, (prediction, target))

folder = Path(sys.argv[1])
assert main(["score", f"{folder}/data/scored.csv", "--scorer", "darkness",
             "--output", f"{folder}/data/dark.csv"]) == 0
assert main(["cache", f"{folder}/run.toml", "--resolution", "16", "--device", "cpu"]) == 0
assert load_config(folder / "run.toml").objective.constants.scale == 2.0
assert main(["train", f"{folder}/run.toml"]) == 0
"""


@pytest.mark.timeout(180)
def test_objective_reward_and_kernel(tmp_path: Path) -> None:
    tiny.build_sd15(tmp_path / "model")
    manifest(tmp_path / "data")
    (tmp_path / "run.toml").write_text(f"""
[model]
path = "{tmp_path}/model"
train = "full"
[data]
manifest = "{tmp_path}/data/dark.csv"
cache = "{tmp_path}/cache"
[objective]
name = "absolute"
[objective.absolute]
scale = 2.0
[optimizer]
steps = 2
micro_batch = 3
learning_rate = 1e-3
[engine]
device = "cpu"
[output]
folder = "{tmp_path}/run"
progress = false
log_every = 1
""")
    for name, code in (("kernel", KERNEL), ("objective", OBJECTIVE), ("reward", REWARD)):
        (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / "script.py").write_text(SCRIPT)
    paths = os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)])
    done = run(
        [sys.executable, tmp_path / "script.py", tmp_path],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    scores = [line.split(",") for line in (tmp_path / "data/dark.csv").read_text().splitlines()]
    assert "darkness" in scores[0] and float(scores[1][scores[0].index("score")]) == 255.0
    assert (tmp_path / "run/export/unet").is_dir()
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2
