"""How many cached draws training needs: the demo's model, frozen copy against cached references.

    python benchmarks/draws.py run FOLDER --seeds 0 1 2 3 4     # about 7 minutes a seed on two cores
    python benchmarks/draws.py report FOLDER                    # benchmarks/results/study/draws.json, docs

Each seed has a training set of its own (samples of the base model, scored), on which the model is
trained for eight epochs: once with a frozen copy and a new draw each epoch, and with a cached
reference of K = 1, 2, 4 and 8 draws a sample, stratified over timesteps or not. Fresh samples of
every model are scored under the same prompts and noise. `run` goes on where it was; seeds may be run
by several processes at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

import numpy as np

from tglo.bench.record import describe
from tglo.bench.table import markdown
from tglo.demo import digits
from tglo.demo.settings import BATCH, DIFFUSION, EVALUATION_SEED, SCORER, SEED_STRIDE
from tglo.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks/results/study/draws.json"
PAGE = ROOT / "docs/cached-reference.md"
FIGURE = ROOT / "docs/draws.png"
IMAGES, EPOCHS, SAMPLES = 100, 8, 40  # images and samples are per prompt
SAMPLED: dict[str, Any] = {
    "options": DIFFUSION.sampling(12),
    "batch_size": BATCH,
    "device": "cpu",
}
COUNTS = {"plain": (1, 2, 4, 8), "stratified": (2, 4, 8)}  # one draw cannot be stratified
OTHER_DRAWS = "copy other"  # the same with another seed of the draws: how far luck goes
NAMES = {
    "copy": "frozen copy, a new draw each epoch",
    OTHER_DRAWS: "the same with another seed of the draws",
}
MODES = ["copy", OTHER_DRAWS, *(f"{kind} {k}" for kind, counts in COUNTS.items() for k in counts)]


def prepare(here: Path, seed: int, images: int = IMAGES) -> Path:
    """Samples of the base model, scored, and their latent cache; returns the scored manifest."""
    from tglo.cache.make import build
    from tglo.generation.generate import generate_images
    from tglo.rewards.scoring import score_file

    here.mkdir(parents=True, exist_ok=True)
    (here / "prompts.txt").write_text("\n".join(digits.PROMPTS) + "\n")
    manifest = generate_images(
        str(DIFFUSION.base),
        here / "prompts.txt",
        here / "data",
        count=images,
        seed=seed * SEED_STRIDE,
        **SAMPLED,
    )
    scored = score_file(manifest, SCORER, here / "data" / "scored.csv", 256)
    build(
        str(DIFFUSION.base),
        scored,
        here / "cache",
        resolution=digits.SIZE,
        batch_size=BATCH,
        device="cpu",
    )
    return scored


def run(folder: Path, seed: int, epochs: int = EPOCHS, images: int = IMAGES) -> None:
    """Every mode of one seed, into FOLDER/seed-N/result.json."""
    from tglo.sweep import Sampling, sample_scores

    here = folder / f"seed-{seed}"
    scored = prepare(here, seed, images)
    first = EVALUATION_SEED + seed * SEED_STRIDE
    sampling = Sampling(here / "prompts.txt", SCORER, SAMPLES, seed=first, **SAMPLED)
    result: dict[str, Any] = {
        "base": asdict(sample_scores(str(DIFFUSION.base), sampling, here / "base"))
    }
    for mode in MODES:
        export, metrics = _train(here, scored, mode, seed, epochs)
        scores = sample_scores(str(export), sampling, here / mode.replace(" ", "-") / "samples")
        result[mode] = {**asdict(scores), "metrics": metrics}
        print(
            f"seed {seed}, {mode}: {scores.mean:.3f} (base {result['base']['mean']:.3f})",
            flush=True,
        )
    write_json(here / "result.json", result)


def _train(
    here: Path, scored: Path, mode: str, seed: int, epochs: int
) -> tuple[Path, dict[str, float]]:
    """The exported folder, and the means of the last quarter's metrics."""
    import json

    from tglo.cache.drawer import DrawRule
    from tglo.cache.make_reference import build_reference
    from tglo.train import train
    from tglo.train.config_files import parse_config

    kind, _, count = mode.partition(" ")
    data: dict[str, Any] = {"manifest": str(scored), "cache": str(here / "cache")}
    if mode == OTHER_DRAWS:
        data["draw_seed"] = 1000 + seed
    if kind != "copy":
        rule = DrawRule(seed, 0.1, int(count), kind == "stratified")
        errors = here / f"errors-{kind}-{count}"
        build_reference(
            str(DIFFUSION.base), here / "cache", errors, rule, batch_size=BATCH, device="cpu"
        )
        data["reference_cache"] = str(errors)
    rows = len(scored.read_text().splitlines()) - 1
    steps = epochs * -(-rows // BATCH)
    config = {
        "seed": seed,
        "model": {"path": str(DIFFUSION.base), "train": "full"},
        "data": data,
        "objective": {"temperature": 0.03, "reference": "copy" if kind == "copy" else "cached"},
        "optimizer": {
            "steps": steps,
            "micro_batch": BATCH,
            "learning_rate": 1e-4,
            "schedule": "cosine",
        },
        "engine": {"kind": "plain", "device": "cpu"},
        "output": {
            "folder": str(here / mode.replace(" ", "-")),
            "save_every": steps,
            "log_every": max(1, steps // 4),
        },
    }
    outcome = train(parse_config(config))
    assert outcome.export is not None
    lines = (outcome.folder / "metrics.jsonl").read_text().splitlines()
    return outcome.export, json.loads(lines[-1])


def gather(folder: Path) -> dict[str, Any]:
    """The record of all finished seeds: gains in standard deviations of the base's scores."""
    results = {
        path.parent.name: read_json(path) for path in sorted(folder.glob("seed-*/result.json"))
    }
    if not results:
        raise SystemExit(
            f"no finished seed in {folder}; run: python benchmarks/draws.py run {folder}"
        )
    gains = {
        mode: [
            (result[mode]["mean"] - result["base"]["mean"]) / result["base"]["deviation"]
            for result in results.values()
        ]
        for mode in MODES
    }
    floors = [
        result[mode]["metrics"].get("noise_floor")
        for result in results.values()
        for mode in MODES
        if not mode.startswith("copy")
    ]
    return {
        "seeds": list(results),
        "gains": gains,
        "noise_floor": max((floor for floor in floors if floor is not None), default=None),
        "machine": {k: v for k, v in describe().items() if k != "load"},
    }


def table(record: dict[str, Any]) -> str:
    """Mean gain and spread of every mode over the seeds, with its difference from the copy."""
    copy = np.array(record["gains"]["copy"])
    rows = []
    for mode, values in record["gains"].items():
        gains = np.array(values)
        paired = gains - copy
        error = paired.std(ddof=1) / len(paired) ** 0.5 if len(paired) > 1 else 0.0
        rows.append(
            [
                NAMES.get(mode) or f"cached, K = {mode.split()[1]}, {mode.split()[0]}",
                f"{gains.mean():+.2f}",
                f"{gains.min():+.2f} to {gains.max():+.2f}",
                "" if mode == "copy" else f"{paired.mean():+.2f} ± {error:.2f}",
            ]
        )
    return markdown(["reference", "mean gain", "over seeds", "minus the copy's"], rows)


def draw(record: dict[str, Any], path: Path) -> None:
    """Gain against K, stratified and not, beside the copy's mean and range."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    copy = np.array(record["gains"]["copy"])
    axes.axhspan(copy.min(), copy.max(), color="#dddddd", label="frozen copy: range over seeds")
    axes.axhline(copy.mean(), color="#666666", linewidth=1.2, label="frozen copy: mean")
    other = np.mean(record["gains"][OTHER_DRAWS])
    axes.axhline(other, color="#666666", linewidth=1.0, linestyle=":", label="other draws: mean")
    for kind, color, shift in (("plain", "#d98c21", 0.96), ("stratified", "#1f6fb4", 1.04)):
        counts = np.array(COUNTS[kind])
        gains = np.array([record["gains"][f"{kind} {k}"] for k in counts])
        axes.plot(counts * shift, gains, ".", color=color, markersize=5)
        axes.plot(counts * shift, gains.mean(1), "-o", color=color, label=f"cached, {kind}: mean")
    axes.set_xscale("log", base=2)
    axes.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes.set_xlabel("cached draws K of each sample, eight epochs")
    axes.set_ylabel("gain, standard deviations\nof the base's scores")
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def report(folder: Path | None) -> None:
    """Write the record (from a folder of runs, else as it is), the figure and the page's table."""
    from benchmarks.report import fill

    if folder is not None:
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        write_json(RECORD, gather(folder))
    record = read_json(RECORD)
    draw(record, FIGURE)
    PAGE.write_text(fill(PAGE.read_text(), {"draws": table(record)}))
    print(table(record))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("folder", type=Path)
    running.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    commands.add_parser("report").add_argument("folder", type=Path, nargs="?")
    arguments = parser.parse_args()
    if arguments.command == "report":
        report(arguments.folder)
        return
    for seed in arguments.seeds:
        run(arguments.folder.resolve(), seed)


if __name__ == "__main__":
    main()
