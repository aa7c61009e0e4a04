"""Data that change between two commands: what depends on them is made again, or a resume is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.faults.storm.children import in_child
from tests.faults.storm.trial import Trial, need, refused
from tests.faults.storm.world import COMMANDS, SIZES, picture, read_rows, write_rows


def cache_again(trial: Trial) -> None:
    """Images overwritten, rows removed or added under the same cache: it holds what a new one would, but
    for the rounding of images that were computed together, and a run trains from it.
    """
    for _ in range(trial.random.choice([1, 2, 3])):
        _overwrite(trial) if trial.random.random() < 0.6 else _change_rows(trial)
    _thaw(trial)
    extended = trial.run("cache")
    if extended.status != 0:
        refused(extended, ["cache", "photos"])
        return
    new = trial.arguments([*COMMANDS["cache"].arguments, "--output", "new"])
    need(new.status == 0, "no new cache", new)
    difference = trial.path("difference.txt")
    in_child(lambda: difference.write_text(_difference(trial.folder)))
    need(not difference.read_text(), f"the cache is stale: {difference.read_text()}")
    trained = trial.run("train")
    need(trained.status == 0, "no training from the cache", trained)


def _difference(folder: Path) -> str:
    """What the caches `cache` and `new` hold differently for the rows of the manifest; "" if nothing."""
    import torch

    from tglo.cache.latents import LatentCache
    from tglo.cache.reference import ReferenceErrors
    from tglo.data.manifest import read_manifest

    caches = [LatentCache(folder / name) for name in ("cache", "new")]
    errors = [ReferenceErrors(folder / name / "reference") for name in ("cache", "new")]
    for row in read_manifest(folder / "photos/scored.csv").rows:
        ids = [row.sample_id]
        values = [{**cache.batch(ids), **cache.text(ids)} for cache in caches]
        values = [v | {"error": e.of(ids, 1)} for v, e in zip(values, errors, strict=True)]
        for name, wanted in values[1].items():
            found = torch.as_tensor(values[0][name]).double()
            if not torch.allclose(found, torch.as_tensor(wanted).double(), rtol=1e-3, atol=1e-4):
                return f"{name} of {row.image}"
    return ""


def resume(trial: Trial) -> None:
    """Scores, rows or images changed in mid-run: the same command refuses to resume."""
    trial.start_half()
    change = trial.random.choice(["scores", "rows", "images", "threshold"])
    if change == "scores":
        rows = read_rows(trial.path("photos/scored.csv"))
        for row in rows:
            row["score"] = str(-float(row["score"]))
        write_rows(trial.path("photos/scored.csv"), rows)
        trial.say("all scores negated")
    elif change == "rows":
        rows = read_rows(trial.path("photos/scored.csv"))
        del rows[trial.random.randrange(len(rows))]
        write_rows(trial.path("photos/scored.csv"), rows)
        trial.say("a row removed")
    elif change == "images":
        _overwrite(trial)
        shutil.rmtree(trial.path("cache"))
        ended = trial.run("cache")
        need(ended.status == 0, "no new cache", ended)
    if change == "threshold":
        ended = trial.arguments(
            ["threshold", "photos/scored.csv", "--output", "threshold.json", "--percentile", "30"]
        )
        need(ended.status == 0, "no new threshold", ended)
        trial.say("another percentile")
    elif trial.random.random() < 0.7:
        _thaw(trial)
    refused(
        trial.run("train"), ["scor", "rows", "image", "threshold", "cache", "latents", "manifest"]
    )


def _overwrite(trial: Trial) -> None:
    number = trial.random.randrange(12)
    picture(trial.numbers, SIZES[number % 3]).save(trial.path(f"photos/{number}.png"))
    trial.say(f"{number}.png overwritten")


def _change_rows(trial: Trial) -> None:
    rows = read_rows(trial.path("photos/scored.csv"))
    if trial.random.random() < 0.5:
        gone = rows.pop(trial.random.randrange(len(rows)))
        trial.say(f"the row of {gone['image']} removed")
    else:
        name = f"new-{trial.random.randrange(10**6)}.png"
        picture(trial.numbers, trial.random.choice(SIZES)).save(trial.path(f"photos/{name}"))
        prompt = trial.random.choice(["a temple", "a new prompt"])
        rows.append({"prompt": prompt, "image": name, "score": f"{trial.random.random():.4f}"})
        trial.say(f"{name} added")
    write_rows(trial.path("photos/scored.csv"), rows)


def _thaw(trial: Trial) -> None:
    """Freeze the threshold of the scores as they are now."""
    ended = trial.arguments(["threshold", "photos/scored.csv", "--output", "threshold.json"])
    need(ended.status == 0, "no threshold", ended)
