"""`tglo plan`: from flags and from a run's file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import scaling
from tests.commands.conftest import RUN
from tglo import cli
from tglo.commands.plan import flags_of
from tglo.train import load_config

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"


def test_plan_prints_a_table_or_json(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    arguments = ["plan", "--model", "./model", "--gpus", "2", "--train", "full"]
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert "recommended: ZeRO 0" in text and "zero_stage = 0" in text
    assert cli.main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["best"]["stage"] == 0 and len(answer["rows"]) == 12
    assert answer["best"]["memory"]["total"] < 80e9
    assert cli.main(["plan", "--gpus", "0"]) == 1
    assert "gpus is 0; it must be at least 1" in capsys.readouterr().err


def test_plan_says_what_the_runs_own_stage_takes(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUN.format(work=work, objective="tgo"))
    assert cli.main(["plan", str(path), "--gpus", "2"]) == 0, capsys.readouterr().err
    text = capsys.readouterr().out
    assert "global batch 12 = 2 x 3 x 2 GPUs" in text
    assert "as asked: ZeRO 1, checkpointing full, " in text
    assert cli.main(["plan", str(path), "--gpus", "2", "--accumulation", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["options"]["accumulation"] == 1 and answer["asked"]["stage"] == 1
    assert cli.main(["plan", str(path)]) == 1
    assert "zero_stage 1 is not planned for with 1 GPUs" in capsys.readouterr().err


def test_options_that_a_runs_file_answers(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUN.format(work="./w", objective="csft"))
    assert flags_of(load_config(path))["options"].reference == "none"
    path.write_text(RUN.format(work="./w", objective="dpo"))
    options = flags_of(load_config(path))["options"]
    assert (options.micro_batch, options.accumulation, options.ema) == (2, 3, True)


@pytest.mark.parametrize("name", scaling.MACHINES)
def test_a_ready_config_and_its_machine_are_all_that_its_plan_needs(name: str) -> None:
    wanted = scaling.MACHINES[name]
    options = flags_of(load_config(CONFIGS / f"{name}.toml"))["options"]
    hardware = {key: getattr(wanted, key) for key in ("gpus", "nodes", "gpu_memory")}
    own = {"zero_stage": None, "gradient_checkpointing": "none"}  # what the planner recommends
    assert replace(options, **hardware, **own) == wanted
