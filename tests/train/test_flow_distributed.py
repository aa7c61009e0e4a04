"""FLUX on two gloo processes: ZeRO 2 and 3 give one process's losses and weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file

from tests import tiny_flow
from tests.models.families.test_toy import manifest
from tests.train.conftest import write_toml
from tests.train.test_distributed import WORKER, finish, losses, start
from tglo.cache.make import build
from tglo.train import TrainConfig, train
from tglo.train.config_files import parse_config

pytest.importorskip("deepspeed")


@pytest.mark.timeout(300)
def test_flux_under_zero_equals_one_process(tmp_path: Path) -> None:
    folder, cache = tiny_flow.build_flux(tmp_path / "flux"), tmp_path / "cache"
    scored = manifest(tmp_path / "data")
    build(str(folder), scored, cache, resolution=16, device="cpu")

    def config(name: str, kind: str, micro: int, stage: int | None = None) -> TrainConfig:
        reference = "copy" if kind == "full" else "adapter-off"
        engine = {"kind": "plain"} if stage is None else {"kind": "deepspeed", "zero_stage": stage}
        return parse_config(
            {
                "model": {"path": str(folder), "train": kind},
                "data": {"manifest": str(scored), "cache": str(cache)},
                "objective": {"temperature": 0.1, "reference": reference},
                "optimizer": {"steps": 2, "micro_batch": micro, "learning_rate": 1e-3},
                "engine": {"device": "cpu", **engine},
                "output": {"folder": str(tmp_path / name), "log_every": 1, "progress": False},
            }
        )

    files, pairs = [], []
    for kind, stages in (("full", (2, 3)), ("lora", (2,))):
        train(config(f"{kind}-alone", kind, 2))
        for stage in stages:
            together = config(f"{kind}-{stage}", kind, 1, stage)
            files.append(str(write_toml(together, tmp_path / f"{kind}-{stage}.toml")))
            pairs.append((kind, together.output.folder))
    process = start(str(WORKER), *files)
    output = finish(process)
    assert process.returncode == 0, output[-3000:]
    for kind, run in pairs:
        alone = tmp_path / f"{kind}-alone"
        assert losses(run) == pytest.approx(losses(alone), rel=1e-5), run.name
        left, right = (weights(path / "export", kind) for path in (alone, run))
        assert left.keys() == right.keys()
        worst = max(float((left[key] - right[key]).abs().max()) for key in left)
        assert worst < 1e-4, run.name  # AdamW's first steps amplify rounding; a step is 1e-3


def weights(export: Path, kind: str) -> dict[str, object]:
    if kind == "lora":
        return load_file(export / "pytorch_lora_weights.safetensors")
    model = FluxTransformer2DModel.from_pretrained(export, subfolder="transformer")
    return model.state_dict()  # type: ignore[no-any-return]
