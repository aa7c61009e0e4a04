"""Running a sweep: train every point, sample and score it, write the table as it grows."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from tglo.files import read_json, read_sealed, reading, write_json, write_sealed
from tglo.sweep import report
from tglo.sweep.points import Point, Variations, points
from tglo.sweep.sampling import Sampling, difference, sample_scores
from tglo.train import train
from tglo.train.config import TrainConfig, reference_mode
from tglo.train.config_files import to_plain, with_moved_keys

log = logging.getLogger("tglo")
RESULT = "result.json"
LAUNCHER_SECONDS = 60.0  # torchrun gives its processes 30


def sweep(
    config: TrainConfig,
    variations: Variations,
    output: Path,
    *,
    sampling: Sampling | None = None,
    launch: str = "",
) -> list[dict[str, Any]]:
    """Train `config` once for every combination of values; returns a row for each.

    output gets a folder for each run, and sweep.json, sweep.csv, sweep.md and sweep.png. With
    `sampling`, base and trained models are sampled and scored. launch: a command that each training
    is started with as a process of its own, as "torchrun --nproc-per-node 8 -m". Runs that are done
    are kept, so the same call resumes. Raises ValueError for what a configuration cannot have, or a
    scorer that is not there, before anything is trained; RuntimeError when a started process fails,
    Stopped when a signal stops a run.
    """
    grid = points(config, variations, output)
    if reference_mode(config) not in ("none", "cached") and not config.objective.shared_draws:
        log.info('objective.reference = "cached" would spare every run its reference')
    base: dict[str, float] | None = None
    if sampling is not None:
        if not config.output.export:
            raise ValueError(
                "output.export is off, and a sweep samples the exported models; turn it on, or give "
                "no scorer"
            )
        sampling.check()
        folder = _samples_folder(output / "base", sampling)
        base = sample_scores(config.model.path, sampling, folder, loading=config.model.loading)
    rows: list[dict[str, Any]] = []
    for number, point in enumerate(grid, start=1):
        log.info("sweep: run %d of %d, %s", number, len(grid), point.name)
        row = _run(point, sampling, launch)
        if sampling is not None:
            own = _samples_folder(point.config.output.folder, sampling)
            row["difference"] = difference(own, folder)
        rows.append(row)
        report.write(output, variations, rows, base)
    return rows


def _run(point: Point, sampling: Sampling | None, launch: str) -> dict[str, Any]:
    """Return values, last metrics and scores of a point; they are kept in its folder once it is done."""
    folder = point.config.output.folder
    _refuse_other_settings(point)
    prefix = point.config.objective.prompt_prefix
    wanted = {} if sampling is None else sampling.plain()
    if wanted and prefix:
        wanted["prefix"] = prefix
    if (folder / RESULT).is_file():
        remedy = "remove it: what is missing is made again"
        # Earlier versions wrote it without a checksum.
        kept = read_sealed(folder / RESULT, "result of a sweep's run", remedy, lambda _: True)
        with reading(folder / RESULT, "result of a sweep's run", remedy):
            if kept["sampling"] == wanted:
                return {**kept["row"], "values": point.values}  # by their keys of today
    else:
        _train(point, launch)
    metrics = folder / "metrics.jsonl"
    with reading(metrics, "record of a run", f"remove {folder}, and this point is trained again"):
        last = dict(json.loads(metrics.read_bytes().splitlines()[-1]))
        if last["step"] != point.config.optimizer.steps:  # the last line was damaged, and dropped
            raise ValueError(f"its last line is of step {last['step']}")
    row: dict[str, Any] = {"values": point.values, "metrics": last}
    if sampling is not None:
        lora = point.config.model.train == "lora"
        row["scores"] = sample_scores(
            point.config.model.path if lora else str(folder.resolve() / "export"),
            sampling,
            _samples_folder(folder, sampling),
            lora=folder / "export" if lora else None,
            prefix=prefix,
            loading=point.config.model.loading,
        )
    write_sealed(folder / RESULT, {"sampling": wanted, "row": row})
    return row


def _refuse_other_settings(point: Point) -> None:
    """Raise ValueError, naming the keys, where the point's folder holds a run with other settings."""
    path = point.config.output.folder / "config.json"
    if not path.is_file():
        return
    wanted = _flat(json.loads(json.dumps(to_plain(point.config))))
    # A key that came later had its default.
    defaults = _flat(json.loads(json.dumps(to_plain(TrainConfig()))))
    found = defaults | _flat(with_moved_keys(read_json(path), str(path)))
    different = [
        f"{key} is {found.get(key)!r}, not {wanted.get(key)!r}"
        for key in sorted({*wanted, *found})
        if found.get(key) != wanted.get(key)
    ]
    if different:
        raise ValueError(
            f"{path.parent} holds a run with other settings ({'; '.join(different)}); choose another "
            "--output, or remove that folder"
        )


def _flat(plain: dict[str, Any]) -> dict[str, Any]:
    """Return the settings by SECTION.KEY, without those of output."""
    sections = [(s, values) for s, values in plain.items() if isinstance(values, dict)]
    flat = {f"{s}.{key}": v for s, values in sections if s != "output" for key, v in values.items()}
    return {"seed": plain["seed"], **flat}


def _samples_folder(folder: Path, sampling: Sampling) -> Path:
    """Return a folder of its own for each way of sampling: images that are there are kept."""
    text = json.dumps([sampling.prompts.read_text(), sampling.plain()])
    return folder / f"samples-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _train(point: Point, launch: str) -> None:
    if not launch:
        train(point.config).raise_if_stopped()
        return
    folder = point.config.output.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "point.json", to_plain(point.config))
    command = [*shlex.split(launch), "tglo.sweep.worker", str(folder / "point.json")]
    status = _wait_for(subprocess.Popen(command))
    if status:
        raise RuntimeError(
            f"{shlex.join(command)} ended with status {status}; the same sweep resumes from there"
        )


def _wait_for(process: subprocess.Popen[bytes]) -> int:
    """Return a launcher's exit status. If this process is to end, the launcher ends its own first."""
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(LAUNCHER_SECONDS)
        process.kill()
        raise
