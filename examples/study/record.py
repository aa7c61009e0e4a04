"""The results of a study's jobs, in one file that is kept with the project and can be gone on from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from examples.study import data, plan, runs
from examples.study.plan import Size
from tglo.files import read_json, sha256_file, write_json
from tglo.models import family_of
from tglo.models.fingerprint import model_digest
from tglo.shapes import BASE, reader, scenes

FORMAT = "tglo.study, 1"  # raised when a reward comes to mean another number


def fingerprint(size: Size) -> dict[str, str]:
    """Collect all that a job's result depends on besides the job itself and tglo's own code, by name."""
    amounts = {key: str(value) for key, value in asdict(size).items() if key != "seeds"}
    prompts = {
        "train": scenes.prompt_set("train", size.prompts),
        **runs.prompt_sets("evaluation", size),
        **runs.prompt_sets("validation", size),
    }
    return {
        **amounts,
        **{key: str(value) for key, value in plan.DEFAULTS.items()},
        "caption_dropout": str(data.CAPTION_DROPOUT),
        "objectives": json.dumps({name: m.objective for name, m in plan.METHODS.items()}),
        "base": model_digest(BASE, family_of(BASE)),
        **{name: sha256_file(path)[:16] for name, path in reader.FILES.items()},
        "prompts": hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:16],
    }


def save(folder: Path, path: Path, size: Size) -> None:
    """Write the results of all finished jobs and of the base model, sorted by name."""
    found = {
        file.parent.name: read_json(file) for file in sorted(folder.glob(f"runs/*/{runs.RESULT}"))
    }
    write_json(path, {"format": FORMAT, "fingerprint": fingerprint(size), "results": found})


def restore(path: Path, folder: Path, size: Size) -> int:
    """Put a record's results where the jobs' own would be; returns how many were not there.

    ValueError naming what differs for a record of other settings.
    """
    content: dict[str, Any] = read_json(path)
    wanted = fingerprint(size)
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} is no record of a study; leave --record out, or name another")
    there = content["fingerprint"]
    # Methods that came later are no difference: the record has no results of them.
    known = json.loads(there.get("objectives", "{}"))
    objectives = json.loads(wanted["objectives"])
    wanted["objectives"] = json.dumps({name: objectives.get(name) for name in known})
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
