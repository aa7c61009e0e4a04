"""The block of lines at a run's start, and its progress where no terminal shows a bar."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tglo.train import TrainConfig, train
from tglo.train import export as exporting
from tglo.train.reports import reports
from tglo.train.saving import Saver

Make = Callable[..., TrainConfig]


def lines(config: TrainConfig, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "tglo"):
        train(config)
    return caplog.messages


def test_a_run_says_what_it_is(make_config: Make, caplog: pytest.LogCaptureFixture) -> None:
    sections: dict[str, Any] = {
        "optimizer": {"steps": 2, "accumulation": 3},
        "output": {"export": False, "log_every": 2},
    }
    config = make_config(**sections)
    block = dict(line.split("  ", 1) for line in lines(config, caplog) if "  " in line)
    block = {name: text.strip() for name, text in block.items()}
    assert block["device"] == "cpu, 1 process, plain PyTorch, fp32"
    assert block["samples"] == "12; an epoch is 2 steps"
    assert block["steps"] == "2 (1 epochs)"
    assert block["global batch"] == "6 = micro batch 2 x accumulation 3 x 1 process"
    assert block["trained"].startswith("LoRA of rank 16: ") and "parameters" in block["trained"]
    trained, every = (
        int(n.replace(",", "")) for n in block["trained"].split() if n[0].isdigit() and "," in n
    )
    assert 0 < trained < every
    assert block["reference"] == "the model with its LoRA switched off"
    assert block["memory"].endswith("GiB of this process before the first step")
    assert block["checkpoints"] == f"{config.output.folder}/checkpoints, every 500 steps"
    longer = make_config(optimizer={"steps": 3}, output={"export": False, "accept_changes": True})
    assert any(line.endswith("2 of them done") for line in lines(longer, caplog) if "steps" in line)


def test_progress_without_a_terminal(make_config: Make, caplog: pytest.LogCaptureFixture) -> None:
    sections: dict[str, Any] = {
        "optimizer": {"steps": 20, "micro_batch": 1},
        "output": {"export": False, "progress": True},
    }
    told = [line for line in lines(make_config(**sections), caplog) if line.startswith("step ")]
    assert len(told) == 11  # after the first line, and at each tenth
    assert told[0].startswith("step 1 of 20: loss ") and told[0].endswith(" to go")
    assert told[-1].startswith("step 20 of 20: ") and told[-1].endswith("done")
    quiet = make_config(folder="quiet", optimizer={"steps": 2}, output={"export": False})
    assert not any(line.startswith("step ") for line in lines(quiet, caplog))


def test_checkpoints_and_validation_take_no_samples_per_second(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + late[0])
    monkeypatch.setattr(reports, "time", clock)

    def slow(done: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            late[0] += 1000
            return done(*arguments, **named)

        return call

    monkeypatch.setattr(exporting, "validate", slow(exporting.validate))
    monkeypatch.setattr(Saver, "save", slow(Saver.save))
    output = {"export": False, "log_every": 2, "save_every": 1, "validation_every": 3,
              "validation_prompts": ["a temple"], "validation_steps": 1}  # fmt: skip
    folder = train(make_config(output=output)).folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4] and late[0] >= 5000
    assert all(line["samples_per_second"] > 4 / 500 for line in lines)
