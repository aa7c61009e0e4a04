"""The ready configurations load, and are what the planner recommends; the page is up to date."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from benchmarks import scaling
from tglo.plan.planner import plan
from tglo.plan.text import answer, command, toml
from tglo.train.config_checks import check
from tglo.train.config_files import load_config, parse_config

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"
OUTDATED = "docs/scaling.md: run python benchmarks/scaling.py"


def on_page(name: str, computed: str) -> bool:
    """Return whether the page has this between its markers."""
    text = scaling.PAGE.read_text()
    return f"<!-- computed: {name} -->\n{computed}\n<!-- end: {name} -->" in text


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_ready_config_is_what_the_planner_recommends(path: Path) -> None:
    config = load_config(path)
    check(config)
    options = scaling.MACHINES[path.stem]
    planned = plan(options)
    text = path.read_text()
    assert f"# {command(options)}\n# recommended: {answer(planned)}\n" in text
    best = planned.best
    assert config.engine.zero_stage == (best.stage or 0)
    assert config.engine.kind == ("plain" if best.stage is None else "deepspeed")
    assert config.model.gradient_checkpointing == best.checkpointing
    assert config.objective.reference == options.reference
    assert config.engine.precision == options.precision
    assert config.model.train == options.train
    assert config.model.base_weights == options.base_weights
    assert config.optimizer.micro_batch == options.micro_batch
    assert config.optimizer.accumulation == options.accumulation
    # The keys that it prints are a configuration.
    printed = parse_config(tomllib.loads(toml(planned)))
    assert printed.engine.zero_stage == (best.stage or 0)
    assert printed.optimizer.name == options.optimizer
    assert on_page(path.stem, scaling.block(path.stem, planned)), OUTDATED
    if path.stem == "sdxl_full_zero":
        assert on_page("counts", scaling.counts(planned)), OUTDATED


def test_every_machine_has_its_config() -> None:
    assert set(scaling.MACHINES) == {path.stem for path in CONFIGS.glob("*.toml")}
