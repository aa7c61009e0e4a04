"""Started by torchrun in tests: does each job of a JSON file, one after another, in one process group.

A job trains `toml`. Before, rank 0 lets its output folder be a copy of `of`, where the newest checkpoint is damaged
with right checksums: `drop` removes it, and `shorten` leaves one element of the first large tensor whose name ends
so, in the first file of that pattern. `own_format`: checkpoints are DeepSpeed's own, as earlier versions wrote them.
`refused`: the words of the ValueError that it ends with.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.train.test_checkpoint_manifest import reseal
from tglo.train import load_config, train
from tglo.train.engines.deepspeed import DeepSpeedEngine
from tglo.train.engines.layouts import TAG


def tensors(tree: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors of nested dicts and lists, by path."""
    if isinstance(tree, Tensor):
        return {name: tree}
    if isinstance(tree, (dict, list, tuple)):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: t for key, value in items for k, t in tensors(value, f"{name}/{key}").items()}
    return {}


def shorten(file: Path, ending: str) -> None:
    pickled = file.suffix == ".pt"
    content = torch.load(file, weights_only=False) if pickled else load_file(file)
    found = tensors(content) if pickled else {f"/{name}": t for name, t in content.items()}
    path = next(n for n, t in found.items() if n.endswith(ending) and t.numel() > 100)
    place, last = content, path[1:]
    if pickled:
        *parts, last = [int(p) if p.isdigit() else p for p in path[1:].split("/")]
        for part in parts:
            place = place[part]
    place[last] = place[last].flatten()[:1].clone()
    (torch.save if pickled else save_file)(content, file)


def prepare(job: dict[str, Any], folder: Path) -> None:
    shutil.copytree(job["of"], folder)
    checkpoint = max((folder / "checkpoints").glob("step-*"))
    if "shorten" not in job:
        shutil.rmtree(checkpoint)
        return
    pattern, ending = job["shorten"]
    shorten(min(checkpoint.glob(pattern)), ending)
    reseal(checkpoint)


def save_own_format(engine: Any, folder: Path) -> None:
    frozen = engine._leaves_out_frozen
    engine.model.save_checkpoint(
        str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=frozen
    )


def do(job: dict[str, Any]) -> None:
    config = load_config(job["toml"])
    if dist.is_initialized():
        dist.barrier()  # what is copied is whole; before the first job ranks meet when they join
    if "of" in job and os.environ["RANK"] == "0":
        prepare(job, config.output.folder)
    if dist.is_initialized():
        dist.barrier()
    save = DeepSpeedEngine.save
    if job.get("own_format"):
        DeepSpeedEngine.save = save_own_format  # type: ignore[method-assign]
    try:
        train(config)
    except ValueError as error:
        if not re.search(job.get("refused", "^$"), str(error)):
            raise
    else:
        assert "refused" not in job, job
    finally:
        DeepSpeedEngine.save = save  # type: ignore[method-assign]


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, force=True)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        do(job)
