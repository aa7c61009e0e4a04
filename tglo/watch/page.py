"""What the page shows: the runs as data, and the page with its first data inside."""

from __future__ import annotations

import io
import time
import zlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from tglo.files import write_bytes
from tglo.pages.output import check_page
from tglo.pages.render import page, picture
from tglo.watch.curves import Have, update
from tglo.watch.health import findings
from tglo.watch.runs import Run, Runs
from tglo.watch.samples import Sample, address
from tglo.watch.state import table, total_steps

IMAGES = 300  # in a page without a server, of all runs together
EVERY = 2.0  # seconds between two questions of a page
SIDE = 512  # pixels of such an image at most


def live_page(runs: Runs, more: bool) -> bytes:
    """Return the page that asks its server for what is new."""
    return _page(runs, live=True, data=snapshot(runs, more))


def write_page(runs: Runs, path: Path) -> None:
    """Write a page that needs no server, with a selection of the validation images inside.

    ValueError for a path that is a folder or another file, and where there is no run.
    """
    check_page(path, "--output", "runs.html")
    if not len(runs):
        raise ValueError(
            f"there is no run at {', '.join(runs.awaited())} (yet); without --output the page waits for it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    data = snapshot(runs, more=False)
    count = max(1, len(runs))
    for run, entry in zip(runs, data["runs"], strict=True):
        chosen = _chosen(run.samples, IMAGES // count)
        entry["samples"] = _plain(chosen)
        entry["pictures"] = {address(sample): _carried(run, sample) for sample in chosen}
    write_bytes(path, _page(runs, live=False, data=data))


def snapshot(
    runs: Runs, more: bool, have: dict[int, tuple[Have, int]] | None = None
) -> dict[str, Any]:
    """Return what a page lacks.

    have: of each run by its number, what it has of the curves, and `mark` of its samples. more: whether a
    part of the files is still to be read.
    """
    have = have or {}
    return {
        "time": time.time(),
        "more": more,
        "title": _title(runs),
        "awaited": runs.awaited(),
        "runs": [_entry(n, run, *have.get(n, (Have(), 0))) for n, run in enumerate(runs)],
    }


def mark(samples: Sequence[Sample]) -> int:
    """Return a number that changes when the samples do."""
    return zlib.crc32(repr(samples).encode()) if samples else 0


def _page(runs: Runs, live: bool, data: dict[str, Any]) -> bytes:
    media = "'self'" if live else "'none'"
    html = page(
        "watch.html",
        title=data["title"],
        script=("watch_chart.js", "watch.js"),
        live=live,
        policy={"media-src": media},
        served=live,
        every=EVERY,
        data=data,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    return html.encode("utf-8", "backslashreplace")  # a folder's name may be no text


def _title(runs: Runs) -> str:
    names = [run.name for run in runs]
    return names[0] if len(names) == 1 else f"{len(names) or 'No'} training runs"


def _entry(number: int, run: Run, have: Have, samples: int) -> dict[str, Any]:
    state, metrics = run.state(), run.metrics
    entry = {
        "id": number,
        "name": run.name,
        "state": state.word,
        "sentence": state.sentence,
        "step": metrics.last("step") if len(metrics) else None,
        "total": total_steps(run.config),
        "read": metrics.share_read,
        "facts": _facts(run),
        "notes": _notes(run),
        "findings": [[found.level, found.sentence] for found in findings(metrics, run.config)],
        "prompts": run.prompts(),
        "curves": update(metrics, have),
        "mark": mark(run.samples),
    }
    if entry["mark"] != samples:
        entry["samples"] = _plain(run.samples)
    return entry


def _facts(run: Run) -> list[str]:
    model, objective = table(run.config, "model"), table(run.config, "objective")
    optimizer = table(run.config, "optimizer")
    facts = [
        Path(str(model["path"])).name if "path" in model else "",
        str(model.get("train", "")),
        str(objective.get("name", "")),
        f"rate {optimizer['learning_rate']:.3g}" if _is_number(optimizer, "learning_rate") else "",
    ]
    if len(run.metrics):
        facts.append(f"T {run.metrics.last('temperature'):.3g}")
        memory = run.metrics.last("memory_gib")
        facts.append(f"{memory:.1f} GiB" if memory > 0 else "")
    return [fact for fact in facts if fact]


def _is_number(values: dict[str, Any], name: str) -> bool:
    return isinstance(values.get(name), int | float)


def _notes(run: Run) -> list[str]:
    metrics, notes = run.metrics, []
    if metrics.went_back is not None:
        before, after = metrics.went_back
        notes.append(
            f"The run resumed from a checkpoint: metrics.jsonl went back from step {before:,.0f} to {after:,.0f}."
        )
    if metrics.damaged:
        lines = "line" if metrics.damaged == 1 else "lines"
        notes.append(f"{metrics.damaged:,} {lines} of metrics.jsonl could not be read.")
    if metrics.problem is not None:
        notes.append(f"metrics.jsonl cannot be read: {metrics.problem}.")
    return notes


def _plain(samples: Sequence[Sample]) -> list[list[Any]]:
    return [
        [s.step, s.number, s.version, address(s), address(s, True) if s.video else ""]
        for s in samples
    ]


def _chosen(samples: Sequence[Sample], most: int) -> list[Sample]:
    """Return the samples of as many steps as fit, evenly, the first and the last among them."""
    steps = sorted({sample.step for sample in samples})
    each = max(1, len(samples) // max(1, len(steps)))
    count = max(2, most // each)
    if len(steps) > count:
        steps = [steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)]
    kept = set(steps)
    return [
        Sample(s.step, s.number, s.version) for s in samples if s.step in kept
    ]  # of a video its sheet


def _carried(run: Run, sample: Sample) -> str:
    """Return a sample as the page itself carries it; "" for one that cannot be read."""
    path = run.files.file(*address(sample).split("/"))
    try:
        with Image.open(path or "", formats=["PNG"]) as image:
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    small.thumbnail((8 * SIDE, SIDE) if small.width > 2 * small.height else (SIDE, SIDE))
    content = io.BytesIO()
    small.save(content, "jpeg", quality=88)
    return picture(content.getvalue(), "image/jpeg")
