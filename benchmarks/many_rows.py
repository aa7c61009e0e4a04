"""Time and memory from a manifest of many rows to the first batch of a run, the model apart.

    python benchmarks/many_rows.py --rows 1000000 --folder /tmp/rows          # --format parquet

Writes a manifest, and the index of a cache of its rows, into the folder, unless they are there; they stay. The rows
are random: `--prompts` different prompts (0: each row has its own), a name and a score each. Then the preparation of
`tglo train` runs in a process of its own: the manifest read and checked, a threshold per prompt, the cache's index
opened, samples, order and digests, and the first batch of the sampler. Memory is the most that the process had, what
torch takes included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # a checkout that is not installed

PER_BLOCK = 1_000_000
PER_SHARD = 65_536


def write_manifest(path: Path, rows: int, prompts: int) -> None:
    """Write random rows as CSV or Parquet; with prompts = 0 each row has its own."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv, parquet

    def named(some: range) -> pa.Array:
        return pa.array([f"a photograph of subject {i}, by painter {i % 977}" for i in some])

    names = named(range(prompts))
    kinds = {"prompt": pa.string(), "image": pa.string(), "score": pa.float64()}
    random, schema = np.random.default_rng(0), pa.schema(kinds.items())
    new = csv.CSVWriter if path.suffix == ".csv" else parquet.ParquetWriter
    with new(path, schema) as writer:
        for start in range(0, rows, PER_BLOCK):
            numbers = range(start, min(start + PER_BLOCK, rows))
            columns = [
                names.take(pa.array(random.integers(0, prompts, len(numbers))))
                if prompts
                else named(numbers),
                pa.array([f"images/{i // 1000:06d}/{i:09d}.jpg" for i in numbers]),
                pa.array(random.normal(size=len(numbers))),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def write_index(folder: Path, manifest: Path) -> None:
    """Write a cache that has an index of the manifest's rows, two buckets, and shards without content."""
    import numpy as np
    import torch

    from tglo.cache.format import FORMAT, LAST, VERSIONS, text_key
    from tglo.cache.shards import write_tensors
    from tglo.data.manifest import read_manifest
    from tglo.files import write_sealed

    rows = read_manifest(manifest)
    prompts = rows.prompts()
    keys = {prompt: text_key(prompt) for prompt in ["", *dict.fromkeys(prompts)]}
    text_keys = np.sort(np.fromiter(keys.values(), dtype=np.int64))
    text = np.searchsorted(text_keys, np.fromiter((keys[p] for p in prompts), dtype=np.int64))
    order = np.argsort(rows.sample_ids())
    count, random = len(order), np.random.default_rng(1)
    places, sizes = np.arange(count), np.array([[512, 512], [512, 640]])
    bucket = random.integers(0, 2, count)
    index = {
        "sample_id": rows.sample_ids()[order],
        "shard": places // PER_SHARD,
        "bucket": bucket,
        "position": places % PER_SHARD,
        "original": sizes[bucket],
        "crop": np.zeros((count, 2), dtype=np.int64),
        "digest": random.integers(0, 2**62, (count, 2)),
        "text": text[order],
        "text_key": text_keys,
        "text_position": np.arange(len(text_keys)),
        "text_digest": random.integers(0, 2**62, (len(text_keys), 2)),
    }
    folder.mkdir(exist_ok=True)
    shards = [f"latents-{n:05d}.safetensors" for n in range(-(-count // PER_SHARD))]
    shards += [f"text-{n:05d}.safetensors" for n in range(-(-len(text_keys) // PER_SHARD))]
    for name in shards:
        (folder / name).touch()
    tensors = {name: torch.from_numpy(np.ascontiguousarray(cells)) for name, cells in index.items()}
    content = {
        "format": FORMAT,
        "version": VERSIONS[-1],
        "fingerprint": {"family": "none"},
        "buckets": sizes.tolist(),
        "shard_size": PER_SHARD,
        "rows": rows.identity,
        "quarantined": [],
        "samples": count,
        "prompts": len(text_keys),
        "index": write_tensors(folder, "index", tensors, {}),
        "shards": [{"file": name, "bytes": 0, "sha256": ""} for name in shards],
    }
    write_sealed(folder / LAST, content)


def measure(manifest: Path, cache: Path, baseline: Any) -> list[tuple[str, float, float, float]]:
    """Prepare a run; returns of each part its name, seconds, CPU seconds, and the most memory so far in GiB."""
    from tglo.train import run
    from tglo.train.config import DataConfig, OptimizerConfig, TrainConfig

    found: list[tuple[str, float, float, float]] = []
    last = _now()

    def lap(name: str) -> None:
        nonlocal last
        now = _now()
        found.append((name, now[0] - last[0], now[1] - last[1], now[2]))
        last = _now()

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            lap("other")
            result = function(*args, **kwargs)
            lap(name)
            return result

        return call

    parts = {
        "read_manifest": "manifest read and checked",
        "threshold_of": "threshold per prompt",
        "LatentCache": "cache's index opened",
        "choose": "samples",
        "BatchSampler": "sampler",
        "order_of": "digest of the order",
        "digests": "digests of the data",
    }
    for name, title in parts.items():
        setattr(run, name, timed(title, getattr(run, name)))
    data = DataConfig(manifest=manifest, cache=cache, baseline=baseline)
    prepared = run._Data(TrainConfig(data=data, optimizer=OptimizerConfig(micro_batch=8)))
    lap("other")
    prepared.sampler.batch(0, 0, 0)
    lap("first batch")
    return found


def _now() -> tuple[float, float, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), used.ru_utime + used.ru_stime, _peak_gib()


def _peak_gib() -> float:
    """Return the most memory that this program had: ru_maxrss counts what started it, which wrote the rows."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--prompts", type=int, default=200_000)
    parser.add_argument("--format", choices=["csv", "parquet"], default="csv")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--baseline", choices=["oracle", "percentile"], default="oracle")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    manifest = options.folder / f"{options.rows}-{options.prompts}.{options.format}"
    cache = manifest.with_name(f"{options.rows}-{options.prompts}-cache")
    if options.measure:
        print(json.dumps(measure(manifest, cache, options.baseline)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    if not manifest.exists():
        write_manifest(manifest, options.rows, options.prompts)
    if not (cache / "cache.json").exists():
        write_index(cache, manifest)
    command = [sys.executable, __file__, *sys.argv[1:], "--measure"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    parts = json.loads(output.splitlines()[-1])
    total: dict[str, list[float]] = {}
    for name, wall, cpu, memory in parts:
        one = total.setdefault(name, [0.0, 0.0, 0.0])
        total[name] = [one[0] + wall, one[1] + cpu, max(one[2], memory)]
    sums = [sum(row[i] for row in total.values()) for i in (0, 1)]
    total["all"] = [*sums, max(row[2] for row in total.values())]
    print("| part | s | CPU s | GiB at most |\n| --- | ---: | ---: | ---: |")
    for name, (wall, cpu, memory) in total.items():
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {memory:.2f} |")


if __name__ == "__main__":
    main()
