"""Seconds that a step waits for a checkpoint, written at once and in the background.

    python -m benchmarks.checkpoints [--weights 30] [--saves 5] [--folder /tmp] [--device cpu]

A model of linear layers with that many million float32 weights is trained by the plain engine with AdamW, so that
a checkpoint has 12 bytes a weight. Both ways begin at the same weights and must
end with the same last checkpoint.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from tglo.train import checkpoint_manifest as manifest
from tglo.train.checkpoint import Checkpoints
from tglo.train.config_files import parse_config
from tglo.train.contents import HostCopy, write
from tglo.train.engines.plain import PlainEngine

WIDTH, BATCH = 1024, 64
STEPS_BETWEEN = 20


def make_engine(millions: int, device: torch.device) -> PlainEngine:
    """Return an engine that has made one update, so that the optimizer has its state."""
    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, WIDTH) for _ in range(round(millions * 1e6 / (WIDTH * WIDTH)))]
    config = parse_config({"engine": {"kind": "plain", "device": device.type}})
    engine = PlainEngine(config, nn.Sequential(*layers), device)
    update(engine)
    return engine


def update(engine: PlainEngine) -> float:
    """Make one update; returns its seconds."""
    begin = time.perf_counter()
    engine.backward(engine.model(torch.ones(BATCH, WIDTH, device=engine.device)).square().mean())
    float(engine.step(1e-5))
    return time.perf_counter() - begin


def measure(
    engine: PlainEngine, saves: int, root: Path, background: bool
) -> dict[str, list[float]]:
    """Return seconds: of saves as the step sees them, of updates, of whole checkpoints, by name."""
    checkpoints, copy = Checkpoints(root, keep=2), HostCopy()
    found: dict[str, list[float]] = {"save": [], "update": [], "wait": []}
    start = time.perf_counter()
    for step in range(1, saves + 1):
        found["update"] += [update(engine) for _ in range(STEPS_BETWEEN)]
        begin = time.perf_counter()
        checkpoints.wait()
        found["wait"].append(time.perf_counter() - begin)
        if background:
            copied = copy.take(engine.files())
            checkpoints.start(step, lambda folder, files=copied: write(files, folder), {})
        else:
            checkpoints.save(step, engine.save, {})
        found["save"].append(time.perf_counter() - begin)
    found["update"] += [update(engine) for _ in range(STEPS_BETWEEN)]
    checkpoints.wait()
    found["all"] = [time.perf_counter() - start]
    return found


def main() -> None:
    """Print both ways' figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=int, default=30, help="millions")
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    files = []
    for background in (False, True):
        engine = make_engine(options.weights, torch.device(options.device))
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            found = measure(engine, options.saves, Path(folder), background)
            files.append(manifest.read(Path(folder) / f"step-{options.saves:08d}").files)
        first, *later = found["save"]
        print(
            f"{'background' if background else 'at once'}: {engine.checkpoint_bytes() / 1e6:.0f} MB; the step waits "
            f"{first:.3f} s for the first checkpoint, then {statistics.median(later):.3f} s ({min(later):.3f} to "
            f"{max(later):.3f}), {max(found['wait']):.3f} s of it at most for the one before; an update takes "
            f"{statistics.median(found['update']):.3f} s, all {len(found['update'])} with {options.saves} checkpoints "
            f"{found['all'][0]:.1f} s"
        )
    assert files[0] == files[1], "the checkpoints differ"


if __name__ == "__main__":
    main()
