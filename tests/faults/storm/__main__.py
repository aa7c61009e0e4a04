"""A storm of faults on a tiny run: python -m tests.faults.storm --minutes 10

Kinds of fault take turns: kills, stop signals, two commands at once, damaged files, full disks, bad input
and data that change. Each trial has a fresh copy of a tiny world and its own seed, and is survived by a
plain rule: the same command ends with exactly the result of an undisturbed one, or it refuses with exit
status 1 in one line that names what is wrong. At the end there is a count by kind; the exit status is 1
if anything was not survived. `--only KIND --seed N --trials 1` repeats one trial, except for moments by
the clock and for two commands at once, where only what is done is the same.

Commands run in forked children of this process, which has imported all modules (see children.py): some
100 trials a minute on one core; importing and preparing take the first 10 seconds.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = (
    "1"  # before torch and numpy: a process with threads cannot be forked
)
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from tests.faults.storm.table import KINDS, SHORT_SEEDS
from tests.faults.storm.trial import NotSurvived, Skipped, Trial
from tests.faults.storm.world import World


def main() -> int:
    """Play; return the exit status."""
    options = _options()
    kinds = [name for name in KINDS if not options.only or name.startswith(tuple(options.only))]
    if not kinds:
        print(f"no kind begins with {options.only}; there are: {', '.join(KINDS)}")
        return 2
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    folder = Path(options.keep or tempfile.mkdtemp(prefix="storm-"))
    try:
        started = time.monotonic()
        world = World(folder / "world")
        world.prepare()
        prepared = time.monotonic()
        gc.freeze()  # a collection in a child would write to all of it
        first = "fixed seeds" if options.short else f"seed {options.seed}"
        print(f"{first}, {len(kinds)} kinds, prepared in {prepared - started:.1f} s")
        trials = 0
        while not _is_over(options, trials, len(kinds), started):
            kind, seed = kinds[trials % len(kinds)], options.seed + trials // len(kinds)
            seed = SHORT_SEEDS.get(kind, 1) if options.short else seed
            trial = Trial(kind, seed, world, folder / f"trial-{trials}", options.short)
            outcome, text = play(trial, kind, bool(options.keep))
            counts[kind][outcome] += 1
            first = counts[kind][outcome] == 1
            if outcome == "not survived" or (outcome == "skipped" and first) or options.trials == 1:
                repeat = f'--only "{kind}" --seed {seed} --trials 1'
                print(f"{kind}: {outcome} ({repeat})\n{text}", flush=True)
            trials += 1
        minutes = (time.monotonic() - prepared) / 60
        print(_table(counts))
        print(
            f"{trials} trials in {minutes:.1f} minutes, {trials / max(minutes, 1e-9):.0f} a minute"
        )
        return int(any(count["not survived"] for count in counts.values()))
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def play(trial: Trial, kind: str, keep: bool = False) -> tuple[str, str]:
    """Play one trial: survived, skipped or not survived, and in words what happened."""
    outcome, why = "survived", ""
    try:
        KINDS[kind](trial)
    except Skipped as reason:
        outcome, why = "skipped", f": {reason}"
    except NotSurvived as reason:
        outcome, why = "not survived", f": {reason}"
    except Exception:
        outcome, why = "not survived", f": the trial itself broke\n{traceback.format_exc()}"
    if not (keep and outcome == "not survived"):
        shutil.rmtree(trial.folder, ignore_errors=True)
    return outcome, "  " + ", ".join(trial.what) + why.replace("\n", "\n    ")


def _is_over(options: argparse.Namespace, trials: int, kinds: int, started: float) -> bool:
    if options.short:
        return trials >= kinds
    if options.trials:
        return trials >= int(options.trials)
    return time.monotonic() - started > 60 * options.minutes


def _table(counts: dict[str, Counter[str]]) -> str:
    lines = [f"{'':28}{'survived':>10}{'not':>6}{'skipped':>9}"]
    rows = [*counts.items(), ("all", sum(counts.values(), Counter()))]
    for kind, count in rows:
        numbers = f"{count['survived']:10}{count['not survived']:6}{count['skipped']:9}"
        lines.append(f"{kind:28}{numbers}")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.storm", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default 10)")
    parser.add_argument("--seed", type=int, help="of the first round; by default the time")
    parser.add_argument("--only", action="append", metavar="KIND", help="kinds that begin so")
    parser.add_argument("--trials", type=int, help="how many, instead of minutes")
    parser.add_argument("--short", action="store_true", help="each kind once, with a fixed seed")
    parser.add_argument("--keep", metavar="FOLDER", help="keep what was not survived there")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = int(time.time()) % 10**6
    return options


if __name__ == "__main__":
    sys.exit(main())
