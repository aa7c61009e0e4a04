"""The three reference modes on the demo's model: one run each, on the same draws, laid over each other.

    python benchmarks/reference_modes.py FOLDER     # about 3 minutes on two cores; docs/modes.png

LoRA training with a frozen copy, with the LoRA switched off, and with cached errors. Writes
benchmarks/results/study/modes.json, the figure, and the sentence in docs/cached-reference.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

import numpy as np

from benchmarks.draws import PAGE, ROOT, prepare
from benchmarks.report import fill
from tglo.cache.drawer import DrawRule
from tglo.cache.make_reference import build_reference
from tglo.demo.settings import BATCH, DIFFUSION
from tglo.files import read_json, write_json
from tglo.train import train
from tglo.train.config_files import parse_config

RECORD = ROOT / "benchmarks/results/study/modes.json"
FIGURE = ROOT / "docs/modes.png"
MODES = ("copy", "adapter-off", "cached")
RULE = DrawRule(seed=0, caption_dropout=0.1, draws=4, stratified=True)
STEPS = 60


def run(here: Path, steps: int = STEPS, images: int = 50) -> dict[str, Any]:
    """Lines of metrics by mode."""
    scored = prepare(here, seed=0, images=images)
    build_reference(
        str(DIFFUSION.base), here / "cache", here / "errors", RULE, batch_size=BATCH, device="cpu"
    )
    lines = {}
    for mode in MODES:
        config = {
            "model": {"path": str(DIFFUSION.base), "train": "lora", "lora_rank": 16},
            "data": {
                "manifest": str(scored),
                "cache": str(here / "cache"),
                "reference_cache": str(here / "errors"),
                "draws": RULE.draws,
                "stratified": RULE.stratified,
            },
            "objective": {"temperature": 0.03, "reference": mode},
            "optimizer": {"steps": steps, "micro_batch": BATCH, "learning_rate": 1e-2},
            "engine": {"kind": "plain", "device": "cpu"},
            "output": {"folder": str(here / mode), "log_every": 1, "export": False},
        }
        folder = train(parse_config(config)).folder
        lines[mode] = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return lines


def summary(lines: dict[str, list[dict[str, float]]]) -> str:
    """How far the modes lie apart, beside how far they move."""

    def curve(mode: str, name: str) -> np.ndarray:
        return np.array([line[name] for line in lines[mode]])

    names = ("r_positive", "r_negative")
    moved = max(np.abs(curve("copy", name)).max() for name in names)
    apart = max(
        np.abs(curve(mode, name) - curve("copy", name)).max()
        for mode in MODES[1:]
        for name in names
    )
    floor = lines["cached"][0]["noise_floor"]
    return (
        f"Over {len(lines['copy'])} steps the mean scores r of positives and negatives reached "
        f"{moved:.2f} in size; between the modes they differed by at most {apart:.1e}. The noise floor "
        f"that the cached run reported in its first step was {floor:.2g}."
    )


def draw(lines: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Mean r of both classes, step by step; one line style for each mode."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    styles = {"copy": ("-", 4.5, 0.35), "adapter-off": ("-", 1.8, 1.0), "cached": (":", 2.2, 1.0)}
    for mode, (style, width, alpha) in styles.items():
        for name, color in (("r_positive", "#2f8f4e"), ("r_negative", "#b3422f")):
            values = [line[name] for line in lines[mode]]
            dotted = "black" if mode == "cached" else color
            label = f"{mode}, {name.removeprefix('r_')}s"
            steps = [line["step"] for line in lines[mode]]
            axes.plot(steps, values, style, color=dotted, linewidth=width, alpha=alpha, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("mean r")
    figure.legend(fontsize=8, ncols=3, loc="outside lower center", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python benchmarks/reference_modes.py FOLDER")
    lines = run(Path(sys.argv[1]).resolve())
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    kept = ("step", "r_positive", "r_negative", "loss", "noise_floor")
    record = {
        mode: [{k: line[k] for k in kept if k in line} for line in lines[mode]] for mode in MODES
    }
    write_json(RECORD, record)
    lines = read_json(RECORD)
    draw(lines, FIGURE)
    PAGE.write_text(fill(PAGE.read_text(), {"modes": summary(lines)}))
    print(summary(lines))


if __name__ == "__main__":
    main()
