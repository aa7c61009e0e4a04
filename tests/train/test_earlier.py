"""A run that begins anew in the folder of an earlier one keeps both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.train.test_loop import assert_same, final_weights, metrics
from tests.train.test_resume import last, more
from tglo.train import TrainConfig, train
from tglo.train.earlier import set_aside
from tglo.train.finished_run import export_run

Make = Callable[..., TrainConfig]


def test_a_run_that_begins_anew_keeps_both(
    make_config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault 33: fewer steps than the run before, and nothing of that is exported as the new one's."""
    first = make_config(optimizer={"steps": 6}, output={"save_every": 3})
    train(first)
    folder, old = first.output.folder, final_weights(first.output.folder)
    old_lines = metrics(folder)
    anew = replace(
        make_config(optimizer={"steps": 3, "learning_rate": 1e-4}),
        output=replace(first.output, resume=False, keep=1),
    )
    train(anew)
    aside = folder / "earlier-1"
    assert caplog.text.count(f"the earlier run was moved to {aside}") == 1
    new = final_weights(folder)
    assert last(anew).name == "step-00000003" and any(not old[n].equal(new[n]) for n in old)
    assert (folder / "checkpoints" / "latest").read_text().strip() == "step-00000003"
    assert_same(final_weights(aside), old)
    assert (aside / "threshold.json").is_file()
    assert metrics(aside) == old_lines and len(metrics(folder)) == 3
    assert train(more(anew, steps=4, resume=True)).steps == 4  # resumes from the new one
    assert last(anew).name == "step-00000004"

    export_run(aside, tmp_path / "exported")
    name = "pytorch_lora_weights.safetensors"
    assert_same(load_file(tmp_path / "exported" / name), load_file(aside / "export" / name))
    train(more(anew, steps=3))
    assert (folder / "earlier-2" / "checkpoints" / "step-00000004").is_dir()
    assert len(list((aside / "checkpoints").glob("step-*"))) == 2  # not pruned


def test_an_empty_folder_of_a_high_number_is_no_checkpoint(make_config: Make) -> None:
    config = make_config(output={"keep": 1})
    (config.output.folder / "checkpoints" / "step-00000099").mkdir(parents=True)
    assert train(config).steps == 4
    assert last(config).name == "step-00000004"


def test_a_folder_that_no_run_has_used_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert set_aside(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_metrics_of_a_run_without_a_checkpoint_are_set_aside(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("old")
    (tmp_path / "earlier-1").mkdir()
    assert set_aside(tmp_path) == tmp_path / "earlier-2"
    assert (tmp_path / "earlier-2" / "metrics.jsonl").read_text() == "old"
