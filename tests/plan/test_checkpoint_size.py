"""The planner's size of a checkpoint against the files that the plain engine writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.plan.small import Case, case_config, small_model
from tglo.plan.memory import checkpoint
from tglo.plan.options import Options
from tglo.plan.planner import plan
from tglo.plan.profile import Sizes
from tglo.plan.text import as_json, report
from tglo.train.ema import Ema
from tglo.train.engines.plain import PlainEngine


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("train", ["full", "part"])
def test_as_large_as_the_files(train: str, ema: bool, tmp_path: Path) -> None:
    case, module = Case(None, "bf16", train), small_model(train)
    engine = PlainEngine(case_config(case), module, torch.device("cpu"))
    with engine.autocast():
        engine.backward(engine.model(torch.ones(2, 768)).float().square().mean())
    engine.step(1e-3)
    engine.save(tmp_path)
    if ema:
        Ema(0.5, engine).save(tmp_path)
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    predicted = checkpoint(Options(precision="bf16", ema=ema), Sizes.of(module))
    assert predicted == pytest.approx(written, rel=0.002)


def test_the_answer_tells_it_where_the_plain_engine_may_run(tmp_path: Path) -> None:
    model = str(tiny.build_sd15(tmp_path / "model"))
    found = plan(Options(model=model, train="lora", resolution=64))
    size = 12 * found.profile.sizes.trained
    assert as_json(found)["checkpoint"] == size
    assert f"checkpoint of the plain engine: {size / 1e9:.3g} GB, written in the" in report(found)
    many = plan(Options(model=model, train="lora", resolution=64, gpus=2))
    assert "checkpoint" not in as_json(many) and "of the plain engine" not in report(many)
