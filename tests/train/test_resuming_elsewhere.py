"""A run goes on with another number of processes, another ZeRO stage and the other engine, with the losses and
weights of one that was never interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.train.conftest import write_toml
from tests.train.test_distributed import finish, losses, start
from tglo.train import TrainConfig
from tglo.train.engines.layouts import open_stored
from tglo.train.finished_run import export_run

pytest.importorskip("deepspeed")
Make = Callable[..., TrainConfig]
JOBS = Path(__file__).with_name("jobs.py")
BATCH, STEPS = 6, 3
# name -> what is trained, precision, ZeRO stage on two processes, and on one and three; "plain" is the other engine,
# None: not tried.
CASES: dict[str, tuple[str, str, int, int | str | None, int | None]] = {
    "full-0": ("full", "fp32", 0, "plain", 2),
    "full-1": ("full", "fp32", 1, 1, 3),
    "full-2": ("full", "fp32", 2, "plain", 2),
    "full-3": ("full", "fp32", 3, 3, 3),
    "lora-0": ("lora", "fp32", 0, 0, 0),
    "lora-1": ("lora", "fp32", 1, 2, 0),
    "lora-2": ("lora", "fp32", 2, 3, 1),
    "lora-3": ("lora", "fp32", 3, "plain", 2),
    "half-2": ("full", "bf16", 2, None, 3),
    "half-3": ("full", "bf16", 3, "plain", None),
    "offload-3": ("full", "fp32", 3, None, 3),
}
SHARD = "shard-00001.safetensors"
# Resumed on two processes from step 2, since the checkpoint after it is not there, or has one rank's tensor too short.
AGAIN = {
    "full-0": ["optimizer.safetensors", "exp_avg"],
    "full-2": [SHARD, "exp_avg_sq"],
    "full-3": [SHARD, "weight"],
    "half-2": None,
    "half-3": None,
    "blocks": None,
}
# Of earlier versions: case -> a file of DeepSpeed's, where exp_avg of one rank is too short.
OWN_FORMAT = {
    "full-0": "deepspeed/mp_rank_00_model_states.pt",
    "full-2": "deepspeed/*_pp_rank_1_mp_rank_00_optim_states.pt",
    "full-3": "deepspeed/*_pp_rank_1_mp_rank_00_optim_states.pt",
}


class Session:
    """Jobs for one group of processes."""

    def __init__(self, make: Make, folder: Path, cache: Path) -> None:
        self.make, self.folder, self.cache = make, folder, cache
        self.jobs: list[dict[str, Any]] = []

    def add(self, name: str, case: str, processes: int, stage: int | str, **job: Any) -> Path:
        """Add the job of a run of that name; returns its folder."""
        what, precision, *_ = CASES.get(case, ("full", "fp32"))
        micro, accumulation = (1, 2) if processes == 3 else (BATCH // processes, 1)
        kind = {"kind": "plain"} if stage == "plain" else {"kind": "deepspeed", "zero_stage": stage}
        offload = {"offload_optimizer": True, "offload_parameters": True}
        config = self.make(
            folder=name,
            model={"train": what},
            data={"cache": str(self.cache), "caption_dropout": 0.3},
            optimizer={
                "name": "adamw8bit" if case == "blocks" else "adamw",
                "micro_batch": micro,
                "accumulation": accumulation,
                "steps": STEPS,
                "ema_decay": 0.5,
            },
            engine={"precision": precision}
            | kind
            | (offload if "offload" in case and stage == 3 else {}),
            output={
                "save_every": 2,
                "export": name in ("full-3", "lora-2"),
                "async_save": "off" if "own_format" in job else "auto",
            },
        )
        toml = write_toml(config, self.folder / f"{name}.toml")
        self.jobs.append({"toml": str(toml), **job})
        return config.output.folder

    def run(self, processes: int) -> str:
        file = self.folder / f"jobs-{processes}.json"
        file.write_text(json.dumps(self.jobs))
        self.jobs = []
        process = start(str(JOBS), str(file), processes=processes)
        output = finish(process, timeout=450)
        assert process.returncode == 0, output[-5000:]
        return output


def apart(one: Path, other: Path) -> tuple[float, float, float]:
    """How far two runs are apart at most: losses (relative), weights and moving averages after the last step."""
    left, right = (losses(folder) for folder in (one, other))
    assert len(left) == len(right) == STEPS
    loss = max(abs(a / b - 1) for a, b in zip(left, right, strict=True))
    first, second = (folder / "checkpoints" / f"step-{STEPS:08d}" for folder in (one, other))
    weights = average = 0.0
    averages, others = (load_file(folder / "ema.safetensors") for folder in (first, second))
    a, b = open_stored(first), open_stored(second)
    assert averages.keys() == others.keys()
    for name in averages:
        average = max(average, float((averages[name] - others[name]).abs().max()))
        weights = max(weights, float((a.weight(name) - b.weight(name)).abs().max()))
    return loss, weights, average


@pytest.mark.timeout(1200)
def test_two_processes_go_on_as_two_one_and_three(
    make_config: Make, square_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(make_config, tmp_path, square_cache)
    straight, again = {}, {}
    for case in [*CASES, "blocks"]:
        stage = 2 if case == "blocks" else CASES[case][2]
        straight[case] = session.add(case, case, 2, stage)
        if case in AGAIN:
            job = {"of": str(straight[case])} | ({"shorten": AGAIN[case]} if AGAIN[case] else {})
            again[case] = session.add(f"{case}-again", case, 2, stage, **job)
        if case in OWN_FORMAT:
            before = session.add(f"own-{case}", case, 2, stage, own_format=True)
            job = {"of": str(before), "shorten": [OWN_FORMAT[case], "exp_avg"]}
            again[f"own-{case}"] = session.add(f"own-{case}-again", case, 2, stage, **job)
            straight[f"own-{case}"] = straight[case]
    output = session.run(2)
    assert output.count("ignoring checkpoint") == 6, output[-3000:]
    for case, folder in again.items():
        if case != "blocks":
            assert apart(straight[case], folder) == (0, 0, 0), case
    assert losses(straight["blocks"]) == losses(again["blocks"])

    ended: dict[str, tuple[str, Path]] = {}
    for processes in (1, 3):
        for case in CASES:
            stage = CASES[case][3 if processes == 1 else 4]
            if stage is None:
                continue
            name, of = f"{case}-{processes}", str(straight[case])
            ended[name] = case, session.add(name, case, processes, stage, of=of)
        for what in ("full", "lora"):  # of the plain engine at first
            if processes == 1:
                straight[what] = session.add(what, f"{what}-2", 1, "plain")
            else:
                stage = 2 if what == "full" else 3
                of = str(straight[what])
                ended[what] = what, session.add(f"plain-{what}", f"{what}-2", 3, stage, of=of)
        refused = {"of": str(straight["blocks"]), "refused": "optimizer.name = adamw8bit cannot be"}
        session.add(f"blocks-{processes}", "blocks", processes, 2, **refused)
        own = tmp_path / "own-full-2"
        refused = {
            "of": str(own),
            "refused": "in DeepSpeed's own format.*2 processes.*zero_stage = 2",
        }
        session.add(f"own-2-{processes}", "full-2", processes, 2, **refused)
        session.run(processes)
    for name, (case, folder) in ended.items():
        found = apart(straight[case], folder)
        # An update changes a weight by up to 1e-3.
        limits = (1e-2, 1e-3, 1e-3) if "half" in name else (1e-6, 1e-6, 1e-6)
        assert all(a < b for a, b in zip(found, limits, strict=True)), (name, found)

    # One process exports what two did, without a group.
    monkeypatch.setattr("tglo.train.processes.join", lambda *_: pytest.fail("joined a group"))
    for case in ("full-3", "lora-2"):
        export_run(straight[case], tmp_path / f"{case}-exported")
        for file in (straight[case] / "export").rglob("*.safetensors"):
            other = tmp_path / f"{case}-exported" / file.relative_to(straight[case] / "export")
            assert file.read_bytes() == other.read_bytes(), file
