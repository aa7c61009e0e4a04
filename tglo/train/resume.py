"""What a checkpoint of a run holds, and how a run goes on from it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tglo.train import checkpoint, processes
from tglo.train.config import to_plain
from tglo.train.reference_policy import CopyReference
from tglo.train.run import Parts

log = logging.getLogger("tglo")
REFERENCE = "reference.safetensors"


def checkpoints(folder: Path) -> Path:
    """Where a run's checkpoints are."""
    return folder / "checkpoints"


def save(parts: Parts, step: int) -> Path:
    """Write the checkpoint of a run after ``step`` updates; collective."""

    def write(folder: Path) -> None:
        parts.engine.save(folder)
        if parts.ema is not None:
            parts.ema.save(folder)
        renewed = parts.config.objective.update_reference_every_epoch
        if renewed and processes.rank() == 0:
            assert isinstance(parts.reference, CopyReference)
            weights = {n: p.contiguous() for n, p in parts.reference.module.named_parameters()}
            save_file(weights, folder / REFERENCE)

    state = {
        "step": step,
        "temperature": parts.temperature.state(),
        "objective": parts.objective.state(),
        "engine": parts.engine.name,
        "world_size": processes.world_size(),
        "config": to_plain(parts.config),
    }
    output = parts.config.output
    return checkpoint.save(checkpoints(output.folder), step, write, state, output.keep)


def load(parts: Parts) -> int:
    """Restore the newest complete checkpoint; returns the number of updates done (0: none)."""
    found = checkpoint.newest(checkpoints(parts.config.output.folder))
    if found is None:
        return 0
    folder, state = found
    _refuse_other_processes(parts, folder, state)
    _warn_of_changes(parts, state["config"])
    parts.engine.load(folder)
    parts.temperature.restore(state["temperature"])
    parts.objective.restore(state.get("objective", {}))
    if parts.ema is not None:
        parts.ema.load(folder)
    if parts.config.objective.update_reference_every_epoch:
        assert isinstance(parts.reference, CopyReference)
        parts.reference.update(load_file(folder / REFERENCE))
    log.info("going on from %s", folder)
    return int(state["step"])


def renew_reference(parts: Parts) -> None:
    """pi_ref <- pi_theta; collective. What an objective knows of r begins anew with it."""
    assert isinstance(parts.reference, CopyReference)
    parts.reference.update(parts.engine.state_dict())
    parts.objective.restore({})


def _refuse_other_processes(parts: Parts, folder: Path, state: dict[str, Any]) -> None:
    here, engine = processes.world_size(), parts.engine.name
    there = state["world_size"]
    if state["engine"] != engine or there != here:
        raise ValueError(
            f"{folder} was written by {there} process(es) with engine {state['engine']}, this run "
            f"has {here} with engine {engine}. Start it as it was, or set output.resume = false "
            "and another output.folder to begin anew"
        )


def _warn_of_changes(parts: Parts, before: dict[str, Any]) -> None:
    now = json.loads(json.dumps(to_plain(parts.config)))
    for section in ("model", "data", "objective", "optimizer", "engine"):
        for name in sorted({*before[section], *now[section]}):
            old, new = before[section].get(name), now[section].get(name)
            if old != new:
                log.warning("resuming with %s.%s = %s, which was %s", section, name, new, old)
    if before["seed"] != now["seed"]:
        log.warning("resuming with seed = %s, which was %s", now["seed"], before["seed"])
