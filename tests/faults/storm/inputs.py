"""Bad input: refused in one line before any work, or taken with a result that holds only finite numbers."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import signal
from pathlib import Path
from typing import Any

import tomli_w

from tests.faults.storm.bad import CELLS, IMAGES, PROMPTS
from tests.faults.storm.children import Ended, Moment
from tests.faults.storm.trial import Trial, need, refused
from tests.faults.storm.world import CONFIG, read_rows, write_rows

NAN, INF = float("nan"), float("inf")
VALUES: dict[str, tuple[Any, ...]] = {
    "int": (-1, 0, 1, 3, 1000, 10**6, 2**31, 2**63 - 1, -(2**31)),
    "float": (NAN, INF, -INF, -1.0, -0.5, 0.0, 1.0, 1.5, 1e-300, 1e30, 1e308, -1e308),
    "str": ("", "text", "🙂", "../..", "/", "nan", "auto", "-", "a\0b", "x" * 5000, "{0}"),
    "bool": (True, False),
    "tuple": ([], [1], ["text"], ["wandb"], {}, {"a": 1}),
}
UNKNOWN = ("learningrate", "modell", "", "🙂", "lora.rank", "__class__")


def config(trial: Trial) -> None:
    """One to three keys with values of their own type or of another, or unknown keys."""
    from tglo.train import TrainConfig

    plain: dict[str, Any] = copy.deepcopy(CONFIG)
    names: list[str] = []
    wrong = False
    for _ in range(trial.random.choice([1, 1, 1, 2, 3])):
        path, kind = _pick_key(trial, TrainConfig)
        value = _pick_value(trial, kind)
        wrong |= _is_wrong(kind, value)
        if trial.random.random() < 0.1:
            path[-1], wrong = trial.random.choice(UNKNOWN), True
        place: Any = plain
        for name in path[:-1]:
            place = place.setdefault(name, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            continue  # its section has become a value
        place[path[-1]] = value
        names += [*path, str(value), str(Path(str(value))), "unknown key"]
        trial.say(f"{'.'.join(path)} = {str(value)[:40]!r}")
    trial.path("run.toml").write_text(tomli_w.dumps(plain))
    ended = trial.run("train", Moment(signal.SIGTERM, seconds=10))
    _before_any_step(trial, ended, names)
    need(not (wrong and ended.status == 0), "taken", ended)


def _pick_key(trial: Trial, kind: type) -> tuple[list[str], str]:
    """A random key of a configuration, and its type as text."""
    field = trial.random.choice(dataclasses.fields(kind))
    if dataclasses.is_dataclass(field.default_factory) and trial.random.random() < 0.95:
        path, text = _pick_key(trial, field.default_factory)  # type: ignore[arg-type]
        return [field.name, *path], text
    return [field.name], str(field.type)


def _pick_value(trial: Trial, kind: str) -> Any:
    """Mostly of the key's own type, or one of the words that it takes."""
    words = re.findall(r"'([^']*)'|\"([^\"]*)\"", kind)
    own = [value for name, values in VALUES.items() if name in kind.lower() for value in values]
    own += [one or other for one, other in words] + (list(VALUES["str"]) if "Path" in kind else [])
    every = [value for values in VALUES.values() for value in values]
    return trial.random.choice(own if own and trial.random.random() < 0.85 else every)


def manifest(trial: Trial) -> None:
    """One to three random cells, or a row or column too many or too few; then threshold, cache or train."""
    path = trial.path("photos/scored.csv")
    rows = read_rows(path)
    wrong: set[str] = set()  # the columns with a cell that is never right
    for _ in range(trial.random.choice([1, 1, 2, 3])):
        number, column = trial.random.randrange(len(rows)), trial.random.choice(list(CELLS))
        value, is_wrong = trial.random.choice(CELLS[column])
        rows[number][column] = value
        wrong |= {column} if is_wrong else set()
        trial.say(f"row {number}: {column} = {value[:40]!r}")
    form = trial.random.choice(["csv", "csv", "jsonl"])
    if form == "csv":
        write_rows(path, rows)
    else:
        path = path.with_suffix(".jsonl")
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    if trial.random.random() < 0.2:
        trial.say(f"and {_garble(path, trial)}")
    shown = path.relative_to(trial.folder).as_posix()
    name = trial.random.choice(["threshold", "cache", "train"])
    trial.say(f"then {name} {path.name}")
    if name == "threshold":
        ended = trial.arguments([name, shown, "--output", "other.json"])
    elif name == "cache":
        ended = trial.arguments(
            ["cache", "run.toml", "--resolution", "16", "--manifest", shown, "--output", "new"]
        )
    else:
        ended = trial.arguments(["train", "run.toml", "--data.manifest", shown])
    needed = {"threshold": {"score"}, "cache": {"image"}, "train": {"score", "image"}}[name]
    if ended.status == 0:
        need(not wrong & needed, "taken", ended)
    else:
        refused(ended, ["photos", "scored", "threshold", "cache"])


def image(trial: Trial) -> None:
    """One image that is none, or not whole; then cache, score or both at once."""
    path = trial.path(f"photos/{trial.random.randrange(12)}.png")
    name = trial.random.choice(list(IMAGES))
    data, wrong = IMAGES[name](path.read_bytes(), trial)
    path.write_bytes(data)
    trial.say(f"{path.name}: {name}")
    if trial.random.random() < 0.5:
        trial.say("then score")
        ended = trial.run("score")
    else:
        trial.say("then cache")
        ended = trial.arguments(["cache", "run.toml", "--resolution", "16", "--output", "new"])
    if ended.status == 0:
        need(not wrong, "taken", ended)
    else:
        refused(ended, [path.name])


def prompts(trial: Trial) -> None:
    """A file of prompts of any bytes, then generate."""
    name = trial.random.choice(list(PROMPTS))
    data, wrong = PROMPTS[name]
    ending = trial.random.choice([".txt", ".json", ".jsonl", ".csv", ".tsv"])
    path = trial.path("prompts.txt").with_suffix(ending)
    path.write_bytes(data)
    trial.say(f"{path.name}: {name}")
    arguments = ["generate", "--model", "./model", "--prompts", path.name, "--output", "new"]
    ended = trial.arguments([*arguments, "--steps", "1", "--device", "cpu"])
    if ended.status == 0:
        need(not wrong, "taken", ended)
        rows = read_rows(trial.path("new/manifest.csv"))
        missing = [row for row in rows if not trial.path(f"new/{row['image']}").is_file()]
        need(bool(rows) and not missing, f"{len(missing)} images of {len(rows)} are missing", ended)
    else:
        refused(ended, ["prompts"])


def _before_any_step(trial: Trial, ended: Ended, names: list[str]) -> None:
    """NotSurvived for a refusal after the first step, or a run that ended with numbers not finite."""
    lines = [p for p in trial.folder.rglob("metrics.jsonl") if p.stat().st_size]
    if ended.status != 0:
        diverged = "not finite" in ended.text  # by numbers that are possible and far too large
        refused(ended, [] if diverged else names)
        need(diverged or not lines, "refused only after steps were trained", ended)
        return
    for path in lines:
        text = path.read_text()
        need("NaN" not in text and "Infinity" not in text, "metrics are not finite", ended)


def _is_wrong(kind: str, value: Any) -> bool:
    """Whether a value can never be right for a key: nan, or a text, list or table for a number."""
    if isinstance(value, float) and value != value:
        return True
    return kind in ("int", "float", "bool") and isinstance(value, (str, list, dict))


def _garble(path: Path, trial: Trial) -> str:
    data = path.read_bytes()
    ways = {
        "a NUL byte": data[:60] + b"\0" + data[60:],
        "no last line's end": data.rstrip(b"\n"),
        "bytes that are no UTF-8": data + b"\xff\xfe\xfa,x,1\n",
        "an open quotation mark": data + b'"a,b,c\n',
        "a line of 200,000 bytes": data + b"x" * 200_000 + b"\n",
        "carriage returns": data.replace(b"\n", b"\r"),
        "a byte order mark": b"\xef\xbb\xbf" + data,
        "UTF-16": data.decode().encode("utf-16"),
        "nothing": b"",
    }
    way = trial.random.choice(list(ways))
    path.write_bytes(ways[way])
    return way
