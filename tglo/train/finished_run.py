"""A run's newest checkpoint, exported afterwards."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from tglo.files import need_free, read_json, reading
from tglo.models.names import local_path
from tglo.train import export as exporting
from tglo.train import processes, resume
from tglo.train.config import TrainConfig
from tglo.train.config_files import parse_config
from tglo.train.earlier import CHECKPOINTS
from tglo.train.engines.choose import start_processes
from tglo.train.engines.layouts import in_deepspeeds_format
from tglo.train.lock import held
from tglo.train.run import prepare

log = logging.getLogger("tglo")


def export_run(
    folder: Path,
    output: Path,
    layout: exporting.Layout = "diffusers",
    dtype: torch.dtype | None = None,
) -> Path:
    """Export the newest complete checkpoint of the run in `folder` to `output`; see `exporting.export`.

    One process is enough for any run, without a launcher. Start it in the folder that the run's relative paths start
    at. ValueError if a file is not there, if there is no such checkpoint, or if the run trained no LoRA that could
    have this layout.
    """
    source = folder / "config.json"
    if not source.is_file():
        raise ValueError(f"{folder} is not a run's output folder: it has no config.json")
    need_free(output)
    with reading(source, "run's configuration", "give the output folder of a run"):
        config = parse_config(read_json(source), str(source))
    _check_paths(config, folder)
    config = replace(config, output=replace(config.output, folder=folder))  # wherever it lies now
    if layout != "diffusers" and config.model.train != "lora":
        raise ValueError(
            f"layout is {layout}, of a LoRA, but the run in {folder} trained the whole model; leave it out"
        )
    config = _without_sharding(config)
    device = start_processes(config)
    with held(folder):
        with _without_what_training_said():
            run = prepare(config, device)
        try:
            with _without_what_training_said():
                step = resume.load(run, to_export=True)
            if step == 0:
                raise ValueError(f"{folder} has no complete checkpoint to export")
            exporting.export(run, output, False, layout, dtype)
        finally:
            run.batches.close()
    return output


def _without_sharding(config: TrainConfig) -> TrainConfig:
    """Let one process without a launcher read the weights by the plain engine, which has room for nothing else."""
    root = config.output.folder / CHECKPOINTS
    if processes.launched() or any(map(in_deepspeeds_format, root.glob("step-*"))):
        return config
    engine = replace(
        config.engine, kind="plain", zero_stage=0, offload_optimizer=False, offload_parameters=False
    )
    return replace(config, engine=engine)


def _check_paths(config: TrainConfig, folder: Path) -> None:
    """Raise ValueError, naming the folder to go to, for the relative paths of a run that lead nowhere from here."""
    data, model = config.data, config.model
    paths = (
        *(local_path(model.path), model.lora),
        *(data.manifest, data.cache, data.threshold, data.root, data.reference_cache),
    )
    given = [path for path in paths if path is not None and not path.is_absolute()]
    lacking = [str(path) for path in given if not path.exists()]
    if not lacking:
        return
    where, here = _start_of(config.output.folder, folder), Path.cwd()
    go = "the folder that it was trained in"
    if where is not None and where != here:
        go = f"that folder (cd {where})"
    raise ValueError(
        f"there is no {' and no '.join(lacking)} in {here}: the paths of the run in {folder} are relative, and start "
        f"at the folder that a command is run in. Run this in {go}, or bring back what is missing"
    )


def _start_of(relative: Path, folder: Path) -> Path | None:
    """Return the folder from which `relative` leads to `folder`, if it can."""
    absolute = folder.resolve()
    if relative.is_absolute() or ".." in relative.parts:
        return None
    parts = relative.parts
    return (
        absolute.parents[len(parts) - 1]
        if parts and absolute.parts[-len(parts) :] == parts
        else None
    )


@contextmanager
def _without_what_training_said() -> Iterator[None]:
    """Leave out what is told at the start of training, warnings apart; -v has it."""
    level = log.level
    if log.getEffectiveLevel() == logging.INFO:
        log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)
