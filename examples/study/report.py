"""The study's tables and pictures, which fill docs/study.md between its markers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page import fill
from examples.study import runs
from examples.study.plan import (
    METHODS,
    REWARDS,
    SETS,
    Changes,
    Job,
    Size,
)
from examples.study.results import Gain, interval
from tglo.bench.table import markdown
from tglo.data.images import decode_image
from tglo.data.manifest import read_manifest
from tglo.files import write_bytes

PICTURED = ("base", "SFT", "KTO", "DPO", "TGO")
PICTURED_PROMPTS = 8


class Table:
    """Gains of the main jobs, by method, reward trained on, seed, set and scorer."""

    def __init__(self, found: Sequence[Gain], seeds: int) -> None:
        self.seeds = seeds
        self._values = {(g.job.method, g.job.reward, g.job.seed, g.set, g.scorer): g for g in found}

    def gains(
        self, method: str, reward: str, name: str, scorer: str | None = None
    ) -> np.ndarray[Any, Any]:
        """Return (seeds,) gains in standard deviations; scorer: the reward trained on by default."""
        keys = ((method, reward, seed, name, scorer or reward) for seed in range(self.seeds))
        return np.array([self._values[key].value for key in keys])

    def overall(self, method: str, names: Sequence[str] = SETS) -> np.ndarray[Any, Any]:
        """Return (seeds,) gains on the reward trained on, averaged over rewards and sets."""
        return np.mean([self.gains(method, r, name) for r in REWARDS for name in names], axis=0)

    def accuracy(self, method: str, reward: str, name: str) -> np.ndarray[Any, Any]:
        """Return (seeds,) changes of the judge's accuracy, in percentage points."""
        keys = ((method, reward, seed, name, "accuracy") for seed in range(self.seeds))
        found = [self._values[key] for key in keys]
        return np.array([100 * (gain.mean - gain.base) for gain in found])


def blocks(
    table: Table,
    tuned: Mapping[str, Changes],
    trials: Mapping[str, Sequence[Sequence[float]]],
    ablations: Mapping[str, Mapping[str, Sequence[Gain]]],
) -> dict[str, str]:
    """Return Markdown by the name of its markers."""
    return {
        "tuning": _tuning(tuned, trials),
        "overall": _overall(table),
        **{name: _rewards(table, name) for name in SETS},
        "accuracy": _accuracy(table),
        "transfer": _transfer(table),
        "ablations": _ablations(ablations),
    }


def cell(values: Sequence[float] | np.ndarray[Any, Any], digits: int = 2) -> str:
    """Format the mean and half of its interval, as in +0.52 ± 0.11."""
    found = interval(values)
    return f"{found.value:+.{digits}f} ± {found.high - found.value:.{digits}f}"


def _tuning(tuned: Mapping[str, Changes], trials: Mapping[str, Sequence[Sequence[float]]]) -> str:
    lines = []
    for name, changes in tuned.items():
        chosen = [
            f"{changes['optimizer.learning_rate']:g}",
            f"{changes['objective.temperature']:g}" if "objective.temperature" in changes else "",
        ]
        best = list(METHODS[name].grid).index(changes)
        tried = [" ".join(f"{value:+.2f}" for value in gains) for gains in trials[name]]
        tried[best] = f"**{tried[best]}**"
        lines.append([name, *chosen, "; ".join(tried)])
    return markdown(["method", "learning rate", "T", "gains of the six settings"], lines)


def _overall(table: Table) -> str:
    ours = table.overall("TGO")
    lines = []
    for name in sorted(METHODS, key=lambda m: -float(table.overall(m).mean())):
        mine = table.overall(name)
        difference = "" if name == "TGO" else cell(ours - mine)
        sets = [cell(table.overall(name, [s])) for s in SETS]
        lines.append([name, cell(mine), *sets, difference])
    return markdown(["method", "all", *SETS, "TGO minus this, all"], lines)


def _rewards(table: Table, name: str) -> str:
    best = {r: max(METHODS, key=lambda m: float(table.gains(m, r, name).mean())) for r in REWARDS}
    lines = []
    for method in METHODS:
        cells = [cell(table.gains(method, r, name)) for r in REWARDS]
        marked = [
            f"**{c}**" if best[r] == method else c for r, c in zip(REWARDS, cells, strict=True)
        ]
        lines.append([method, *marked])
    return markdown(["method", *REWARDS], lines)


def _accuracy(table: Table) -> str:
    lines = [
        [
            method,
            *(
                cell(np.mean([table.accuracy(method, r, name) for name in SETS], axis=0), 1)
                for r in REWARDS
            ),
        ]
        for method in METHODS
    ]
    return markdown(["method", *REWARDS], lines)


def _transfer(table: Table) -> str:
    lines = [
        [
            f"trained on {reward}",
            *(
                cell(np.mean([table.gains("TGO", reward, n, s) for n in SETS], axis=0))
                for s in REWARDS
            ),
        ]
        for reward in REWARDS
    ]
    return markdown(["TGO", *REWARDS], lines)


def _ablations(ablations: Mapping[str, Mapping[str, Sequence[Gain]]]) -> str:
    lines = []
    for ablation, values in ablations.items():
        first = next(iter(values.values()))
        own = first[0].job.reward
        reference = by_seed(first, own)
        for number, (value, found) in enumerate(values.items()):
            mine = by_seed(found, own)
            difference = "" if number == 0 else cell(mine - reference)
            others = [cell(by_seed(found, scorer)) for scorer in ("faithfulness", "vividness")]
            name = ablation if number == 0 else ""
            lines.append([name, value, cell(mine), difference, *others])
    header = ["", "", "reward trained on", "minus the first", "faithfulness", "vividness"]
    return markdown(header, lines)


def by_seed(found: Sequence[Gain], scorer: str) -> np.ndarray[Any, Any]:
    """Return gains over all sets, one for each seed."""
    seeds = sorted({gain.job.seed for gain in found})
    return np.array(
        [
            np.mean([g.value for g in found if g.scorer == scorer and g.job.seed == seed])
            for seed in seeds
        ]
    )


def bars(table: Table) -> bytes:
    """Draw gains on the reward trained on, a panel for each prompt set, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    colours = [f"C{number}" for number in range(len(METHODS))]
    for axes, name in zip(figure.subplots(len(SETS), 1, sharex=True), SETS, strict=True):
        width = 0.8 / len(METHODS)
        for number, (method, colour) in enumerate(zip(METHODS, colours, strict=True)):
            found = [interval(table.gains(method, reward, name)) for reward in REWARDS]
            places = np.arange(len(REWARDS)) + (number - len(METHODS) / 2 + 0.5) * width
            axes.bar(
                places,
                [e.value for e in found],
                width,
                yerr=[e.high - e.value for e in found],
                label=method,
                color=colour,
                error_kw={"linewidth": 0.7},
            )
        axes.axhline(0, color="black", linewidth=0.7)
        axes.set_title(f"{name}: gain over the base in its standard deviations", fontsize=9)
        axes.set_xticks(range(len(REWARDS)), [f"trained on {reward}" for reward in REWARDS])
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(ncols=len(METHODS), fontsize=7, loc="upper left")
    return png(figure)


def pictures(folder: Path, jobs: Sequence[Job], size: Size) -> bytes | None:
    """Draw a panel for each reward with rows for each pictured method, on the same prompts and noise; None
    where the samples are not there, as after going on from a record.
    """
    from matplotlib.figure import Figure

    first = {(job.method, job.reward): job for job in jobs if job.seed == 0}
    prompts = [p for several in runs.prompt_sets("evaluation", size).values() for p in several]
    shown = np.linspace(0, len(prompts) - 1, PICTURED_PROMPTS).round().astype(int)
    figure = Figure(figsize=(12, 2.4 + 0.75 * len(PICTURED)), layout="constrained")
    panels = figure.subplots(1, len(REWARDS))
    for axes, reward in zip(panels, REWARDS, strict=True):
        rows = []
        for method in PICTURED:
            base = method == "base"
            name = runs.base_name("evaluation", 0) if base else first[method, reward].name
            if not (folder / "runs" / name / "samples" / "manifest.csv").is_file():
                return None
            rows.append(_row(folder / "runs" / name / "samples", shown))
        axes.imshow(np.concatenate(rows, axis=0), interpolation="nearest")
        axes.set_title(f"trained on {reward}", fontsize=9)
        height = rows[0].shape[0]
        axes.set_yticks([height * (i + 0.5) for i in range(len(PICTURED))], PICTURED, fontsize=8)
        axes.set_xticks([])
    return png(figure)


def write(page: Path, found: Mapping[str, str], images: Mapping[str, bytes]) -> None:
    """Fill the page's blocks, and write the pictures beside it."""
    write_bytes(page, fill(page.read_text(), dict(found)).encode())
    for name, content in images.items():
        write_bytes(page.with_name(name), content)


def _row(samples: Path, shown: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    manifest = read_manifest(samples / "manifest.csv", require_scores=False)
    images = [decode_image(manifest.open_image(manifest.rows[i])) for i in shown]
    half = len(images) // 2
    rows = [
        np.concatenate([np.asarray(image.convert("RGB")) for image in part], axis=1)
        for part in (images[:half], images[half:])
    ]
    gap = np.full((2, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([*rows, gap], axis=0)


def png(figure: Any) -> bytes:
    """Save a figure in memory."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()
