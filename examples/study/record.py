"""The results of a study's jobs, in one file that is kept with the project; a study can start from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from examples.study import runs
from examples.study.world import World
from tglo.files import claim_folder, read_json, sha256_file, write_bytes, write_json
from tglo.models import family_of
from tglo.models.fingerprint import model_digest

OBJECTIVES = "objectives"
FORMAT = "tglo.study, 1"  # raised when a reward comes to mean another number


def fingerprint(world: World) -> dict[str, str]:
    """Collect all that a job's result depends on besides the job itself and tglo's own code, by name."""
    amounts = asdict(world.size)
    del amounts["seeds"]
    prompts = {
        "train": world.prompt_set("train", world.size.prompts),
        **runs.prompt_sets("evaluation", world),
        **runs.prompt_sets("validation", world),
    }
    return {
        # An amount that a world has not is left out.
        **{key: str(value) for key, value in amounts.items() if value is not None},
        **{key: str(value) for key, value in world.defaults.items()},
        "caption_dropout": str(world.caption_dropout),
        OBJECTIVES: json.dumps({name: m.objective for name, m in world.methods.items()}),
        "base": model_digest(world.base, family_of(world.base)),
        **{name: sha256_file(path)[:16] for name, path in world.networks.items()},
        "prompts": hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:16],
    }


def claim(folder: Path, world: World) -> None:
    """Bind a study's folder to what its jobs depend on. ValueError, naming what differs, for a folder of another
    study; one of fewer methods can be resumed.
    """
    path, ours = folder / "study.json", fingerprint(world)
    if path.is_file():
        before = _without_added(ours, read_json(path))
        claim_folder(path, before)
        if before != ours:
            write_json(path, ours)
    else:
        claim_folder(path, ours)


def _without_added(ours: dict[str, str], there: dict[str, str]) -> dict[str, str]:
    """Return a fingerprint without the methods that one of before lacks: it has no results of them."""
    known, objectives = (json.loads(one.get(OBJECTIVES, "{}")) for one in (there, ours))
    return ours | {OBJECTIVES: json.dumps({name: objectives.get(name) for name in known})}


def save(folder: Path, path: Path, world: World) -> None:
    """Write the results of all finished jobs and of the base model, sorted by name: JSON with a line for each, so that
    more of them are only lines more.
    """
    found = {
        file.parent.name: read_json(file) for file in sorted(folder.glob(f"runs/*/{runs.RESULT}"))
    }
    results = ",\n".join(f"{_line(name)}: {_line(result)}" for name, result in found.items())
    rest = f'"format": {_line(FORMAT)},\n"fingerprint": {_line(fingerprint(world))}'
    write_bytes(path, f'{{\n{rest},\n"results": {{\n{results}\n}}\n}}\n'.encode())


def _line(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def restore(path: Path, folder: Path, world: World) -> int:
    """Put a record's results where the jobs' own would be; returns how many were not there.

    ValueError naming what differs for a record of other settings.
    """
    content: dict[str, Any] = read_json(path)
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} is no record of a study; leave --record out, or name another")
    there = content["fingerprint"]
    wanted = _without_added(fingerprint(world), there)
    different = [
        f"{name} is {there.get(name)!r} there and {value!r} here"
        for name, value in wanted.items()
        if there.get(name) != value
    ]
    if different:
        raise ValueError(f"{path} is of other settings: {'; '.join(different)}; leave --record out")
    added = 0
    for name, result in content["results"].items():
        target = folder / "runs" / name / runs.RESULT
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_json(target, result)
            added += 1
    return added
