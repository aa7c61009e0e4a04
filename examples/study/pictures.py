"""The study's pictures: gains as bars, and samples of the models."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.study import runs
from examples.study.plan import Job
from examples.study.report import Table
from examples.study.results import interval
from examples.study.world import World
from tglo.data.images import decode_image
from tglo.data.manifest import read_manifest

PICTURED = ("base", "SFT", "KTO", "DPO", "TGO", "TGO oracle")
PICTURED_PROMPTS = 8


def bars(table: Table) -> bytes:
    """Draw gains on the reward trained on with their intervals over seeds, a panel for each prompt set, as PNG."""
    from matplotlib.figure import Figure

    world = table.world
    names, sets = list(world.rewards), world.sets
    figure = Figure(figsize=(10, 2.5 * len(sets) + 0.4), layout="constrained")
    # One scale: a gain on seen prompts is as high as the same gain on others.
    panels = figure.subplots(len(sets), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, sets, strict=True):
        width = 0.8 / len(world.methods)
        for number, method in enumerate(world.methods):
            found = [interval(table.gains(method, reward, name)) for reward in names]
            places = np.arange(len(names)) + (number - len(world.methods) / 2 + 0.5) * width
            axes.bar(
                places,
                [e.value for e in found],
                width,
                yerr=[e.high - e.value for e in found],
                label=method,
                color=f"C{number}",
                hatch="//" if number >= 10 else "",  # where the colours begin again
                error_kw={"linewidth": 0.7},
            )
        axes.axhline(0, color="black", linewidth=0.7)
        axes.set_title(f"{name}: gain over the base in its standard deviations", fontsize=9)
        axes.set_xticks(range(len(names)), [f"trained on {reward}" for reward in names])
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, fontsize=8, frameon=False)
    return png(figure)


def samples(folder: Path, jobs: Sequence[Job], world: World) -> bytes | None:
    """Draw a panel for each reward with rows for each pictured method, on the same prompts and noise; None
    where the samples are not there, as after starting from a record.
    """
    from matplotlib.figure import Figure

    first = {(job.method, job.reward): job for job in jobs if job.seed == 0}
    prompts = [p for several in runs.prompt_sets("evaluation", world).values() for p in several]
    shown = np.linspace(0, len(prompts) - 1, PICTURED_PROMPTS).round().astype(int)
    figure = Figure(figsize=(12, 2.4 + 0.75 * len(PICTURED)), layout="constrained")
    panels = figure.subplots(1, len(world.rewards), squeeze=False)[0]
    for axes, reward in zip(panels, world.rewards, strict=True):
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
