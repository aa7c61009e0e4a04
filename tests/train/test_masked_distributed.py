"""Masked models under DeepSpeed on two gloo processes: one process's losses and weights.

ZeRO 3 gathers the head's weights for the head's own forward and backward only, which is why the loss
is computed there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.train.conftest import write_toml
from tests.train.test_distributed import WORKER, finish, losses, start
from tglo import models
from tglo.cache.make import build
from tglo.train import TrainConfig, train

pytest.importorskip("deepspeed")
Make = Callable[..., TrainConfig]


@pytest.mark.timeout(300)
def test_zero_stages_equal_one_process(
    make_config: Make, manifest: Path, sd15: Path, tmp_path: Path
) -> None:
    alone, sharded, files = {}, {}, []
    for name, what, stages in (("amused", "full", (0, 3)), ("meissonic", "lora", (3,))):
        builder = tiny.build_amused if name == "amused" else tiny.build_meissonic
        model, cache = builder(tmp_path / name), tmp_path / f"{name}-cache"
        build(str(model), manifest, cache, resolution=16, buckets=False, device="cpu")
        common: dict[str, dict[str, object]] = {
            "model": {"path": str(model), "train": what},
            "data": {"cache": str(cache)},
            "objective": {"temperature": "default"},
        }
        single = make_config(
            sd15, f"{name}-alone", **common, optimizer={"micro_batch": 4, "steps": 3}
        )
        train(single)
        for stage in stages:
            config = make_config(
                sd15,
                f"{name}-{stage}",
                **common,
                optimizer={"micro_batch": 2, "steps": 3},
                engine={"kind": "deepspeed", "zero_stage": stage},
            )
            alone[f"{name}-{stage}"] = single.output.folder
            sharded[f"{name}-{stage}"] = config.output.folder
            files.append(str(write_toml(config, tmp_path / f"{name}-{stage}.toml")))
    process = start(str(WORKER), *files)
    output = finish(process)
    assert process.returncode == 0, output[-4000:]
    assert output.count("in a group at the end: False") == 2  # else a rank may be aborted there
    for name, folder in sharded.items():
        assert losses(folder) == pytest.approx(losses(alone[name]), rel=1e-5), name
    for stage in (0, 3):
        one, other = (
            models.load(folder / "export").denoiser.state_dict()
            for folder in (alone[f"amused-{stage}"], sharded[f"amused-{stage}"])
        )
        for key, tensor in other.items():
            torch.testing.assert_close(tensor, one[key], rtol=0, atol=1e-4)
