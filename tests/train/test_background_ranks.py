"""Two ranks write their files in threads while training continues: the same files, published when both are whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.train.conftest import write_toml
from tests.train.test_background_saves import all_files
from tests.train.test_checkpoint import found_step, names
from tests.train.test_distributed import finish, start
from tglo.train import TrainConfig

pytest.importorskip("deepspeed")
Make = Callable[..., TrainConfig]
WORKER = """
import errno, os, signal, sys, threading
from tglo.train import load_config, loop, saving, train
from tglo.train.checkpoint_draft import CheckpointError

rank = int(os.environ["RANK"])
step_itself, write_itself, updated = loop._step, saving.write, threading.Event()

def step(run, step, *arguments):
    if run.config.output.folder.name == "stopped" and step == 2 and rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)  # while rank 0 writes
    done = step_itself(run, step, *arguments)
    updated.set()
    return done

def write(files, folder):
    run, checkpoint = folder.parts[-3], folder.name
    if run == "full" and rank == 1 and checkpoint == "step-00000004.tmp":
        raise OSError(errno.ENOSPC, "No space left on device")
    if run == "behind" or rank == 0:
        updated.clear()
        assert updated.wait(60)
    write_itself(files, folder)
    print(f"{run}, rank {rank}: {checkpoint} with {' '.join(sorted(files))}", flush=True)

loop._step, saving.write = step, write
for file in sys.argv[1:]:
    config = load_config(file)
    try:
        result = train(config)
        print(f"{config.output.folder.name}: {result.steps} {result.finished}", flush=True)
    except CheckpointError as error:
        print(f"{config.output.folder.name}: {error}", flush=True)
"""


@pytest.mark.timeout(300)
def test_the_same_files_although_training_has_gone_on(make_config: Make, tmp_path: Path) -> None:
    """Of `full` rank 1 has no space for a checkpoint, most steps being to come; `stopped` gets a signal while rank 0
    writes.
    """
    configs = {
        name: make_config(
            folder=name,
            engine={"kind": "deepspeed", "zero_stage": 2},
            model={"train": "full"},
            optimizer={
                "steps": 5 if name in ("at-once", "behind") else 5000,
                "ema_decay": 0.5,
                "schedule": "constant",
            },
            output={
                "async_save": "off" if name == "at-once" else "on",
                "save_every": 2,
                "keep": 9,
                "export": False,
            },
        )
        for name in ("at-once", "behind", "full", "stopped")
    }
    files = [str(write_toml(c, tmp_path / f"{name}.toml")) for name, c in configs.items()]
    process = start("-c", WORKER, *files)
    output = finish(process)
    assert process.returncode == 0, output[-3000:]

    left, right = all_files(configs["at-once"]), all_files(configs["behind"])
    assert left == right and list(left) == [f"step-{n:08d}" for n in (2, 4, 5)]
    mine = {rank: [f"shard-{rank:05d}.json", f"shard-{rank:05d}.safetensors"] for rank in (0, 1)}
    assert {*mine[0], *mine[1], "ema.safetensors", "scaler.json"} == set(left["step-00000002"][0])
    for step in (2, 4):
        for rank, own in mine.items():
            written = sorted([*own, *(["ema.safetensors", "scaler.json"] if rank == 0 else [])])
            told = f"behind, rank {rank}: step-{step:08d}.tmp with {' '.join(written)}"
            assert output.count(told) == 1, output[-3000:]
    roots = {name: config.output.folder / "checkpoints" for name, config in configs.items()}
    assert output.count("full: checkpoint step-00000004 was not written: ") == 2, output[-3000:]
    assert output.count("the disk is full: ") == 2 and "rank 1 stopped: " in output
    assert names(roots["full"]) == ["step-00000002"] and found_step(roots["full"]) == 2
    assert output.count("stopped: 3 False") == 2, output[-3000:]
    assert names(roots["stopped"]) == ["step-00000002", "step-00000003"]
    state = json.loads((roots["stopped"] / "step-00000003" / "manifest.json").read_text())
    assert state["world_size"] == 2 and found_step(roots["stopped"]) == 3
