"""docs/objectives.md: its code runs, its tables have every objective and the true defaults."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from tests.preloaded import run
from tglo.objectives import OBJECTIVES
from tglo.train.config import ObjectiveConfig

PAGE = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text()


def table(heading: str) -> dict[str, list[str]]:
    """Rows by name of the table under a heading row that starts so."""
    lines = PAGE[PAGE.index(heading) :].split("\n\n")[0].splitlines()[2:]
    cells = [[c.strip() for c in line.replace(r"\|", "!").split("|")[1:-1]] for line in lines]
    return {name.strip(" `"): row[1:] for row in cells for name in row[0].split(",")}


def shown(default: object) -> str:
    if default is None:
        return "none"
    return f'"{default}"' if isinstance(default, str) else f"{default:g}"


def test_every_objective_is_there() -> None:
    assert get_args(get_type_hints(ObjectiveConfig)["name"]) == tuple(OBJECTIVES)
    assert set(table("| name | loss")) == set(table("| name | beta |")) == set(OBJECTIVES)


def test_defaults_are_true() -> None:
    for name, (beta, temperature, _) in table("| name | beta |").items():
        kind = OBJECTIVES[name]
        if beta:
            assert float(beta) == kind.default_beta
            if kind.default_temperature is None:
                assert temperature.startswith("the family's")
            else:
                assert float(temperature) == pytest.approx(kind.default_temperature)


def test_what_it_says_of_qrpos_partition_function() -> None:
    for beta, said in ((0.1, 5e-6), (0.5, 0.07)):
        exact = math.log(beta) + math.log(math.expm1(1 / beta))
        off = beta * (math.log(beta) + 1 / beta - exact)
        assert off == pytest.approx(said, rel=0.1)
    log_z = math.log(0.1) + 10
    assert [round(q - 0.1 * log_z, 2) for q in (0, 1)] == [-0.77, 0.23]


def test_the_tables_of_constants_are_true() -> None:
    text = PAGE[PAGE.index("| key | default |") :].split("\n\n")[0]
    for name, kind in OBJECTIVES.items():
        for field in dataclasses.fields(kind.constants_type):
            assert f"`objective.{name}.{field.name}`" in text
            assert shown(field.default) in text


def test_the_example_of_an_objective_trains_by_its_name(tmp_path: Path) -> None:
    """In a process of its own: choices and tables follow from OBJECTIVES when they are imported."""
    code = PAGE.split("```python\n")[2].split("```")[0]
    script = tmp_path / "hinge.py"
    script.write_text(f"{code}\n{USE_HINGE}")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run([sys.executable, str(script)], check=True, timeout=120, env=environment)


USE_HINGE = """
import torch
from tests.objectives.cases import make_batch
from tglo.objectives import OBJECTIVES

OBJECTIVES["hinge"] = Hinge
from tglo.train.config_files import parse_config, to_plain

config = parse_config({"objective": {"name": "hinge", "hinge": {"margin": 3}}})
assert config.objective.constants == HingeConstants(3.0)
assert to_plain(config)["objective"]["hinge"] == {"margin": 3.0}
batch = make_batch()
loss, stats = Hinge(constants=config.objective.constants)(batch, 1e9)
assert abs(float(loss) - 3.0) < 1e-6 and stats.weight.eq(1).all()
(gradient,) = torch.autograd.grad(loss, batch.policy_pred)
assert gradient.any()
"""


def test_the_code_runs() -> None:
    code = PAGE.split("```python\n")[1].split("```")[0]
    random = torch.Generator().manual_seed(0)
    target, policy, other = (torch.randn(3, 4, 8, generator=random) for _ in range(3))
    space = {
        "policy_pred": policy.requires_grad_(),
        "target": target,
        "reference_pred": other,
        "gain": torch.ones(3, dtype=torch.float64),
    }
    exec(code, space)
    assert policy.grad is not None and policy.grad.any()
