"""DeepSpeed's own files in a checkpoint are compared with the run before they are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.train.conftest import write_toml
from tests.train.test_checkpoint_manifest import reseal
from tests.train.test_distributed import WORKER, finish, start
from tglo.files import DamagedFile
from tglo.train import TrainConfig
from tglo.train.checkpoint import newest
from tglo.train.engines.deepspeed_files import check_tree

pytest.importorskip("deepspeed")
Make = Callable[..., TrainConfig]


def tensors(tree: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors of nested dicts and lists, by path."""
    if isinstance(tree, Tensor):
        return {name: tree}
    if isinstance(tree, (dict, list, tuple)):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: t for key, value in items for k, t in tensors(value, f"{name}/{key}").items()}
    return {}


def read(folder: Path) -> dict[str, Tensor]:
    files = sorted((folder / "deepspeed").glob("*.pt"))
    return {
        f"{file.name}{name}": tensor
        for file in files
        for name, tensor in tensors(torch.load(file, weights_only=False)).items()
    }


def shorten(file: Path, ending: str) -> None:
    """Let the first large tensor whose path ends so have one element only."""
    content = torch.load(file, weights_only=False)
    path = next(n for n, t in tensors(content).items() if n.endswith(ending) and t.numel() > 100)
    place = content
    *parts, last = [int(p) if p.isdigit() else p for p in path[1:].split("/")]
    for part in parts:
        place = place[part]
    place[last] = place[last].flatten()[:1].clone()
    torch.save(content, file)


@pytest.mark.timeout(300)
def test_a_shape_that_does_not_fit_falls_back_on_both_ranks(
    make_config: Make, tmp_path: Path
) -> None:
    """Fault 36, under each way of sharding: in one rank's file, with recomputed checksums."""
    wrong = {  # stage -> file, tensor
        0: ("mp_rank_00_model_states.pt", "exp_avg"),
        2: ("*_pp_rank_1_mp_rank_00_optim_states.pt", "exp_avg"),
        3: ("*_pp_rank_1_mp_rank_00_optim_states.pt", "exp_avg"),
    }
    configs = {
        stage: make_config(
            folder=f"stage-{stage}",
            model={"train": "full"},
            engine={"kind": "deepspeed", "zero_stage": stage},
            output={"save_every": 2, "export": False},
        )
        for stage in wrong
    }
    files = [str(write_toml(c, tmp_path / f"{stage}.toml")) for stage, c in configs.items()]
    process = start(str(WORKER), *files)
    output = finish(process)
    assert process.returncode == 0, output[-3000:]
    expected = {}
    for stage, (pattern, ending) in wrong.items():
        found = newest(configs[stage].output.folder / "checkpoints")
        assert found is not None and found[1]["step"] == 4
        expected[stage] = read(found[0])
        shorten(next((found[0] / "deepspeed").glob(pattern)), ending)
        reseal(found[0])

    process = start(str(WORKER), *files)
    output = finish(process)
    assert process.returncode == 0, output[-3000:]
    assert output.count("ignoring checkpoint") == len(wrong), output[-3000:]
    for stage, config in configs.items():
        found = newest(config.output.folder / "checkpoints")
        assert found is not None and found[1]["step"] == 4
        after = read(found[0])
        assert after.keys() == expected[stage].keys()
        assert all(torch.equal(after[name], expected[stage][name]) for name in after), stage


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"groups": torch.zeros(2)},
        {"groups": []},
        {"groups": [torch.zeros(1)]},
        {"groups": [torch.zeros(2).half()]},
        {"groups": [None]},
    ],
)
def test_another_form_is_damaged(found: dict[str, Any]) -> None:
    with pytest.raises(DamagedFile, match=r"x\.pt is damaged or no part of this run's checkpoint"):
        check_tree(Path("x.pt"), "state", found, {"groups": [torch.zeros(2)], "step": 1})
