"""Checkpoints in DeepSpeed's own format, which earlier versions wrote: compared with the run, then loaded by DeepSpeed.

They are pickles for one number of processes and one stage; only for folders of one's own runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tglo.files import reading
from tglo.train import stored
from tglo.train.engines.layouts import TAG
from tglo.train.engines.optimizers import check_values


def check(
    folder: Path, model: Any, stage: int, trained: Mapping[str, Tensor], *, leaves_out_frozen: bool
) -> None:
    """Raise DamagedFile or OSError unless the files that this rank reads have the shapes of what DeepSpeed's
    engine `model` would write now.
    """
    path, found = _read_shapes(model._get_ckpt_name(str(folder), TAG))
    module = model.module_state_dict(exclude_frozen_parameters=leaves_out_frozen)
    check_tree(path, "module", found.get("module"), module)
    optimizer = model.optimizer
    if stage:
        path, found = _read_shapes(model._get_zero_ckpt_name(str(folder), TAG))
        found = found.get("optimizer_state_dict", {})
        check_tree(path, "optimizer", found, optimizer.state_dict())
        # States have no names: their numbers are those of the flat groups of weights.
        name = "base_optimizer_state" if stage < 3 else "optimizer_state_dict"
        groups = "single_partition_of_fp32_groups" if stage < 3 else "fp32_partitioned_groups_flat"
        weights = {f"group {n}": w for n, w in enumerate(getattr(optimizer, groups))}
        _check_states(path, found.get(name), optimizer.optimizer, weights, needed=True)
    elif isinstance(optimizer, torch.optim.Optimizer):  # of fp32
        _check_states(path, found.get("optimizer"), optimizer, trained, needed=False)


def load(folder: Path, model: Any, *, leaves_out_frozen: bool) -> None:
    """Restore what DeepSpeed wrote; collective."""
    path, _ = model.load_checkpoint(str(folder), tag=TAG, load_module_strict=not leaves_out_frozen)
    if path is None:
        raise ValueError(f"DeepSpeed found no checkpoint in {folder}; the folder is damaged")


def check_tree(path: Path, name: str, found: Any, wanted: Any) -> None:
    """Raise DamagedFile unless every tensor in nested dicts and lists is there in the same form."""
    if isinstance(wanted, Tensor):
        if not isinstance(found, Tensor):
            raise stored.damaged(path, f"{name} is no tensor")
        stored.check_form(path, name, stored.form(found), stored.form(wanted))
    elif isinstance(wanted, (dict, list, tuple)):
        if not isinstance(found, type(wanted)) or len(found) < len(wanted):
            raise stored.damaged(path, f"{name} has another form")
        for key, value in wanted.items() if isinstance(wanted, dict) else enumerate(wanted):
            if isinstance(found, dict) and key not in found:
                raise stored.damaged(path, f"it has no {name}/{key}")
            check_tree(path, f"{name}/{key}", found[key], value)


def _check_states(
    path: Path, found: Any, optimizer: Any, weights: Mapping[str, Tensor], *, needed: bool
) -> None:
    with reading(path, stored.KIND, stored.REMEDY):
        states = dict(found["state"])
        for number, (name, weight) in enumerate(weights.items()):
            if number in states:
                check_values(optimizer, weight, states[number], path, name)
            elif needed:
                raise ValueError(f"{name} has no optimizer state")


def _read_shapes(name: str) -> tuple[Path, dict[str, Any]]:
    """Read one of DeepSpeed's files, its tensors without their values."""
    path = Path(name)
    with reading(path, stored.KIND, stored.REMEDY):
        return path, dict(torch.load(path, map_location="meta", weights_only=False))
