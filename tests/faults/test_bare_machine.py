"""A machine without GPU, nvcc, Triton, DeepSpeed, trackers and the compiled extension (fault 32): tglo
works with what is there and says what is missing, why, and what to do.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.train.conftest import (  # noqa: F401  (fixtures)
    caches,
    make_config,
    manifest,
    sd15,
    sdxl,
    write_toml,
)
from tglo.train import TrainConfig

Make = Callable[..., TrainConfig]
WITHOUT = """
import sys
from importlib.machinery import PathFinder
absent = {"triton", "deepspeed", "xformers", "bitsandbytes", "wandb", "trackio", "tensorboard"}
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        gone = name == "tglo._C" or name.split(".")[0] in absent
        return None if gone else super().find_spec(name, path, target)
sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
import json
from tglo import cli
for arguments in json.loads(sys.argv[1]):
    print("ended with", cli.main(arguments), flush=True)
"""


def run(*commands: list[str]) -> list[tuple[int, str]]:
    """Run commands one after another in one process, which takes seconds to import what they need."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, json.dumps(commands)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        env={**os.environ, "PATH": "/nowhere", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stdout
    parts = re.split(r"^ended with (\d+)\n", done.stdout, flags=re.MULTILINE)
    return [(int(status), output) for output, status in zip(parts[:-1:2], parts[1::2], strict=True)]


def test_doctor_says_what_is_used_and_missing() -> None:
    ((status, output),) = run(["doctor"])
    assert status == 0
    for line in (
        r"tglo/_C.so was not built; the loss runs on plain PyTorch",
        "tgo_loss on cpu                ok       reference for bfloat16",
        "not found; needed only to compile CUDA code",
        "-> reinstall tglo, on Linux and without TGLO_NO_EXTENSION: pip install",
    ):
        assert " ".join(line.split()) in " ".join(output.split()), output


def test_a_run_trains_and_what_it_cannot_have_is_named(
    make_config: Make,
    tmp_path: Path,
) -> None:
    config = make_config(
        optimizer={"steps": 1}, output={"trackers": ["wandb", "tensorboard"], "export": False}
    )
    toml = str(write_toml(config, tmp_path / "run.toml"))
    refusals = (
        (("--objective.backend", "cpu"), "objective.backend: .*tglo/_C.so was not built"),
        (("--objective.backend", "triton"), "triton is not installed; pip install triton"),
        (("--engine.kind", "deepspeed"), "needs DeepSpeed, which is not installed: pip install"),
    )
    (status, output), *refused = run(
        ["train", toml], *(["train", toml, *flags] for flags, _ in refusals)
    )
    assert status == 0, output
    assert "backend reference, because tglo/_C.so was not built" in output
    assert (
        "tracker wandb did not start; training continues without it (ModuleNotFoundError" in output
    )
    assert len((config.output.folder / "metrics.jsonl").read_text().splitlines()) == 1
    for (status, output), (_, message) in zip(refused, refusals, strict=True):
        assert status == 1
        assert message.split(".*")[-1] in output.splitlines()[-1]
