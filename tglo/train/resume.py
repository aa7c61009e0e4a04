"""The state of a run in a checkpoint, and how a run goes on from it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tglo.train import checkpoint, processes
from tglo.train.config_files import to_plain, with_moved_keys
from tglo.train.run import Run

log = logging.getLogger("tglo")
CHECKPOINTS = "checkpoints"  # the folder in a run's own
REFERENCE = "reference.safetensors"


def save(run: Run, step: int) -> Path:
    """Write the checkpoint of a run after `step` updates; collective."""

    def write(folder: Path) -> None:
        run.engine.save(folder)
        if run.ema is not None:
            run.ema.save(folder)
        renewed = run.config.objective.update_reference_every_epoch
        if renewed and processes.rank() == 0:
            assert run.reference is not None
            save_file(run.reference.weights(), folder / REFERENCE)

    state = {
        "step": step,
        "temperature": run.temperature.state(),
        "objective": run.objective.state(),
        "engine": run.engine.name,
        "world_size": processes.world_size(),
        "config": to_plain(run.config),
    }
    output = run.config.output
    return checkpoint.save(output.folder / CHECKPOINTS, step, write, state, output.keep)


def load(run: Run) -> int:
    """Restore the newest complete checkpoint; returns the number of updates done (0: none)."""
    found = checkpoint.newest(run.config.output.folder / CHECKPOINTS)
    if found is None:
        return 0
    folder, state = found
    _refuse_other_processes(run, folder, state)
    _warn_of_changes(run, with_moved_keys(state["config"]))
    run.engine.load(folder)
    run.temperature.restore(state["temperature"])
    run.objective.restore(state.get("objective", {}))
    if run.ema is not None:
        run.ema.load(folder)
    if run.config.objective.update_reference_every_epoch:
        assert run.reference is not None
        run.reference.update(load_file(folder / REFERENCE))
    log.info("going on from %s", folder)
    return int(state["step"])


def renew_reference(run: Run) -> None:
    """Set pi_ref <- pi_theta; collective. What an objective knows of r begins anew with it."""
    assert run.reference is not None
    run.reference.update(run.engine.state_dict())
    run.objective.restore({})


def _refuse_other_processes(run: Run, folder: Path, state: dict[str, Any]) -> None:
    here, engine = processes.world_size(), run.engine.name
    there = state["world_size"]
    if state["engine"] != engine or there != here:
        raise ValueError(
            f"{folder} was written by {there} process(es) with engine {state['engine']}, this run "
            f"has {here} with engine {engine}. Start it as it was, or set output.resume = false "
            "and another output.folder to begin anew"
        )


def _warn_of_changes(run: Run, before: dict[str, Any]) -> None:
    now = json.loads(json.dumps(to_plain(run.config)))
    for section in ("model", "data", "objective", "optimizer", "engine"):
        for name in sorted({*before[section], *now[section]}):
            old, new = before[section].get(name), now[section].get(name)
            if old != new:
                log.warning("resuming with %s.%s = %s, which was %s", section, name, new, old)
    if before["seed"] != now["seed"]:
        log.warning("resuming with seed = %s, which was %s", now["seed"], before["seed"])
