"""The planner's model states against the tensors that the engines hold."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.plan.small import CASES, Case, case_config, small_model
from tests.plan.worker import held, storages
from tests.train.test_distributed import finish, start
from tglo.plan.memory import model_states
from tglo.plan.options import Options
from tglo.plan.profile import Sizes
from tglo.train.engines.choose import make_engine

pytest.importorskip("deepspeed")
PROCESSES = 2
# Not counted: padding of partitions, step counters, norms. They are less than 0.001% here.
TOLERANCE = 0.001


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, dict[str, Any]]:
    """What rank 0 of two processes held in each case."""
    output = tmp_path_factory.mktemp("states") / "states.json"
    process = start(str(Path(__file__).with_name("worker.py")), str(output), processes=PROCESSES)
    text = finish(process)
    assert process.returncode == 0, text[-3000:]
    lines = json.loads(output.read_text())
    return {
        Case(line["stage"], line["precision"], line["train"], line["accumulation"]): line
        for line in lines
    }


@pytest.mark.timeout(240)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_deepspeed_holds_what_is_predicted(case: Case, weighed: dict[Case, dict[str, Any]]) -> None:
    line = weighed[case]
    sizes = Sizes(**line["sizes"])
    options = Options(gpus=PROCESSES, precision=case.precision, accumulation=case.accumulation)
    states = model_states(options, sizes, case.stage)
    assert line["backward"] == pytest.approx(states.total, rel=TOLERANCE)
    # What stays after the update: stage 3 keeps its gradients' buffer, the others free them.
    kept = states.total if case.stage == 3 else states.total - states.gradients
    assert line["update"] == pytest.approx(kept, rel=TOLERANCE)
    average = 4 * sizes.trained / (PROCESSES if case.stage else 1)  # rank 0 has it without ZeRO
    assert line["average"] == pytest.approx(average, rel=TOLERANCE)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("train", ["full", "part"])
def test_the_plain_engine_holds_what_is_predicted(precision: str, train: str) -> None:
    case = Case(None, precision, train)
    gc.collect()
    before = set(storages())
    module = small_model(train)
    sizes = Sizes.of(module)
    engine = make_engine(case_config(case), module, torch.device("cpu"))
    for _ in range(2):  # moments are made by the first update
        with engine.autocast():
            loss = engine.model(torch.ones(2, 768)).float().square().mean()
        engine.backward(loss)
        del loss
        found = held(before, 0)
        engine.step(1e-3)
    states = model_states(Options(precision=precision), sizes, None)
    # Autocast's copies live until the backward ends; what is left then is without them.
    copies = 2 * sizes.all if precision == "bf16" else 0
    assert found == pytest.approx(states.total - copies, rel=TOLERANCE)
