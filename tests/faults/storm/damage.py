"""Damaged files: a command refuses in one line that names the file, or makes the right result."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from PIL import Image

from tests.faults.storm.children import Moment
from tests.faults.storm.trial import Trial, need, parts, refused
from tests.faults.storm.ways import WAYS


def checkpoint(trial: Trial) -> None:
    """A file of a checkpoint, then the run continues: from an older one if it must."""
    trial.start_half()
    path = _damage_one(
        trial,
        "run/checkpoints/step-*/manifest.json",
        "run/checkpoints/step-*/*",
        "run/checkpoints/latest",
    )
    trial.refused_or_same(trial.run("train"), "train", parts(path, trial.folder))


def run_folder(trial: Trial) -> None:
    """What else a run's folder holds. metrics.jsonl is a log that nothing is computed from."""
    trial.start_half()
    path = _damage_one(trial, "run/*.json*", "run/.lock")
    ended = trial.run("train")
    if ended.status == 0:
        trial.same("train", exact=False, logs=False)
    else:
        refused(ended, parts(path, trial.folder))


def cache(trial: Trial) -> None:
    """A file of the cache, then training from it, perhaps after `tglo cache`, which says that all is well."""
    path = _damage_one(trial, "cache/*", "cache/reference/*")
    if trial.random.random() < 0.5:
        trial.say("then cache")
        ended = trial.run("cache")
        if ended.status != 0:
            refused(ended, parts(path, trial.folder))
            return
        ended = trial.run("train")
        need(ended.status == 0, "`tglo cache` found all well, and `tglo train` does not", ended)
        trial.same("train")
    else:
        trial.say("then train")
        trial.refused_or_same(trial.run("train"), "train", parts(path, trial.folder))


def threshold(trial: Trial) -> None:
    """The frozen threshold, then training with it."""
    path = _damage_one(trial, "threshold.json")
    trial.refused_or_same(trial.run("train"), "train", parts(path, trial.folder))


def model(trial: Trial) -> None:
    """A file of the model folder, then training with the cache that was made from it, or images added to
    those that it made. What is exported of it as it is may differ where nothing depends on it.
    """
    if trial.random.random() < 0.7:
        path = _damage_one(trial, "model/**/*")
        ended = trial.run("train")
        if ended.status == 0:
            copies = [n for n in trial.world.truth["train"] if n.endswith(path.name)]
            trial.same("train", exact=False, without=[n for n in copies if n.startswith("export")])
            return
    else:
        trial.start_with("generate")
        next(trial.path("images/images").glob("*.png")).unlink()
        path = _damage_one(trial, "model/**/*")
        trial.say("then generate")
        ended = trial.run("generate")
        if ended.status == 0:
            trial.same("generate", exact=False, without=["generation.json"])
            return
    refused(ended, [*parts(path, trial.folder), "denoiser", "different settings", "other settings"])


def manifest(trial: Trial) -> None:
    """The manifest, then the run continues: whatever the damage, it is not the data it began with."""
    trial.start_half()
    path = _damage_one(trial, "photos/scored.csv")
    ended = trial.run("train")
    if ended.status == 0:
        trial.same("train", exact=False)
    else:
        refused(ended, [*parts(path, trial.folder), "threshold", "samples"])


def manifest_format(trial: Trial) -> None:
    """A manifest of each format, then `tglo threshold`. A changed score cannot be known here."""
    names = ("scored.csv", "scored.jsonl", "scored.parquet", "scored.tar")
    path = _damage_one(trial, *(f"photos/{name}" for name in names))
    shown = path.relative_to(trial.folder).as_posix()
    ended = trial.arguments(["threshold", shown, "--output", "other.json"])
    if ended.status == 0:
        value = json.loads(trial.path("other.json").read_text())["value"]
        need(isinstance(value, float) and abs(value) < float("inf"), f"the threshold is {value}")
    else:
        refused(ended, [*parts(path, trial.folder), "scores"])  # too few may be left


def config(trial: Trial) -> None:
    """The TOML file, then training. What still is a configuration may be another one."""
    import tomllib

    path = trial.path("run.toml")
    before = tomllib.loads(path.read_text())
    _damage_one(trial, "run.toml")
    ended = trial.run("train", Moment(signal.SIGTERM, seconds=20))
    try:
        after = tomllib.loads(path.read_text())
    except (OSError, ValueError):
        after = None
    if ended.status != 0:
        changed = [] if after is None else _changed(before, after)
        refused(ended, [*parts(path, trial.folder), *changed])
    elif after == before:
        trial.same("train")
    else:
        need(after is not None, "a damaged file was taken", ended)


def images(trial: Trial) -> None:
    """Images that are there already, or the record of how they were made; then `tglo generate`, and if it
    keeps the damaged image, `tglo score`. That an image is another one cannot be known.
    """
    trial.start_with("generate")
    path = _damage_one(trial, "images/*.json", "images/manifest.csv", "images/images/*")
    ended = trial.run("generate")
    if ended.status != 0 or path.suffix != ".png":
        trial.refused_or_same(ended, "generate", parts(path, trial.folder))
        return
    trial.say("then score")
    arguments = ["score", "images/manifest.csv", "--scorer", "ink"]
    ended = trial.arguments([*arguments, "--output", "images/scores.csv"])
    if ended.status == 0:
        need(_decodes(path), "an image that is none was scored", ended)
    else:
        refused(ended, [path.name])


def _decodes(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError, SyntaxError):
        return False
    return True


def scores(trial: Trial) -> None:
    """The scores so far, then `tglo score` goes on."""
    ended = trial.run("score", Moment(signal.SIGKILL, before="/scores.csv"))
    need(ended.status == -signal.SIGKILL, "not killed", ended)
    path = _damage_one(trial, "photos/.*.partial-work/[!.]*")
    trial.refused_or_same(trial.run("score"), "score", parts(path, trial.folder))


def evaluation(trial: Trial) -> None:
    """A file of a finished evaluation, then the same command."""
    trial.start_with("evaluate")
    path = _damage_one(trial, "evaluation/**/*")
    trial.refused_or_same(trial.run("evaluate"), "evaluate", parts(path, trial.folder))


def _damage_one(trial: Trial, *patterns: str) -> Path:
    """Damage one of the files of these patterns, each pattern as likely as the others."""
    groups = [sorted(p for p in trial.folder.glob(pattern) if p.is_file()) for pattern in patterns]
    path = trial.random.choice(trial.random.choice([group for group in groups if group]))
    ways = dict(WAYS)
    if path.suffix != ".json":
        del ways["edited"]
    way = trial.random.choice([*ways, *["flipped"] * 5])  # the kind that is the hardest to notice
    detail = ways[way](path, trial.random)
    trial.say(f"{path.relative_to(trial.folder)} {way}{detail}")
    return path


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The keys that are in one only or have other values."""
    names: list[str] = []
    for section in {*before, *after}:
        one, other = before.get(section, {}), after.get(section, {})
        if one != other:
            names.append(section)
        if isinstance(one, dict) and isinstance(other, dict):
            names += [k for k in {*one, *other} if one.get(k) != other.get(k)]
    return names
