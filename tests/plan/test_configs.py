"""The ready configurations load, and are what the planner recommends; the page is up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import scaling
from tglo.plan.planner import plan
from tglo.plan.text import answer, command
from tglo.train import load_config

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_ready_config_is_what_the_planner_recommends(path: Path) -> None:
    config = load_config(path)
    config.check()
    options = scaling.MACHINES[path.stem]
    planned = plan(options)
    text = path.read_text()
    assert f"# {command(options)}\n# recommended: {answer(planned)}\n" in text
    best = planned.best
    assert config.engine.zero_stage == (best.stage or 0)
    assert config.engine.kind == ("plain" if best.stage is None else "deepspeed")
    # Written either as a switch or as the name of a mode.
    written = config.model.gradient_checkpointing
    assert str(written) in (best.checkpointing, str(best.checkpointing != "none"))
    assert config.engine.precision == options.precision
    assert config.model.train == options.train
    assert config.optimizer.micro_batch == options.micro_batch
    assert config.optimizer.accumulation == options.accumulation


def test_every_machine_has_its_config() -> None:
    assert set(scaling.MACHINES) == {path.stem for path in CONFIGS.glob("*.toml")}


def test_the_page_is_what_the_planner_computes(capsys: pytest.CaptureFixture[str]) -> None:
    assert scaling.main(["--check"]) == 0, "docs/scaling.md: run python benchmarks/scaling.py"
