"""Everything that a change of structure must leave as it is, made anew: caches, runs, the demo, help.

All of it goes through the command line and TOML files, so that it says nothing of the modules inside.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import platform
import socket
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tomli_w
import torch
from PIL import Image
from safetensors.torch import load_file

from tests import preloaded, tiny
from tglo.cli import COMMANDS, main

ROWS = 12
SIZES = [(32, 32), (32, 48), (48, 32)]  # height, width of the images
TIMES = ("samples_per_second", "seconds/")
RUNS: dict[str, dict[str, dict[str, Any]]] = {
    "full": {"model": {"train": "full"}},
    "lora": {"model": {"train": "lora"}, "optimizer": {"ema_decay": 0.5}},
    "masked": {"model": {"path": "amused", "train": "full"}, "data": {"cache": "amused-cache"}},
    "pairs": {"objective": {"name": "dpo"}},
    "cached": {
        "model": {"train": "full"},
        "objective": {"reference": "cached", "timestep_weight": "min_snr"},
    },
    "deepspeed": {
        "model": {"train": "full"},
        "engine": {"kind": "deepspeed", "zero_stage": 2},
        "optimizer": {"micro_batch": 1},
    },
}


def machine() -> str:
    """What bits depend on beside the code: processor, instruction set, library versions."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
        capability = torch.backends.cpu.get_cpu_capability()
        return f"{', '.join(sorted(models))}; {capability}; torch {torch.__version__}"
    return platform.machine()


def make_all(folder: Path) -> dict[str, Any]:
    """Every golden output except the demo's and the help texts."""
    prepare(folder)
    result: dict[str, Any] = {
        "latent_cache": digests(folder / "sd15-cache", leave_out="reference"),
        "token_cache": digests(folder / "amused-cache"),
        "reference_cache": digests(folder / "sd15-cache" / "reference"),
        "runs": {},
    }
    for name, sections in RUNS.items():
        run(folder, name, sections)
        result["runs"][name] = {
            "metrics": metrics(folder / name),
            **weights(folder / name / "export"),
        }
    return result


def prepare(folder: Path) -> None:
    """Models, scored images, latent caches and the cache of reference errors."""
    tiny.build_sd15(folder / "sd15")
    tiny.build_amused(folder / "amused")
    random = np.random.default_rng(0)
    with (folder / "scored.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "image", "score"])
        for number in range(ROWS):
            coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            height, width = SIZES[number % 3]
            picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            picture.save(folder / f"{number}.png")
            prompt = ["a temple", "a flower"][number % 2]
            writer.writerow([prompt, f"{number}.png", f"{coarse.mean() / 255:.4f}"])
    for model in ("sd15", "amused"):
        extra = ["--reference", "--draws", "2"] if model == "sd15" else []
        command = ["cache", "--model", f"{folder}/{model}", "--manifest", f"{folder}/scored.csv"]
        command += ["--output", f"{folder}/{model}-cache", "--resolution", "16", "--device", "cpu"]
        assert quiet([*command, *extra]) == 0


def run(folder: Path, name: str, sections: dict[str, dict[str, Any]]) -> None:
    """One short training, by the command line."""
    base: dict[str, dict[str, Any]] = {
        "model": {"path": "sd15"},
        "data": {"manifest": str(folder / "scored.csv"), "cache": "sd15-cache"},
        "objective": {"temperature": 0.1},
        "optimizer": {"steps": 5, "micro_batch": 2, "learning_rate": 1e-3},
        "engine": {"device": "cpu"},
        "output": {"folder": str(folder / name), "log_every": 1, "progress": False},
    }
    for section, values in sections.items():
        base[section] = base[section] | values
    base["model"]["path"] = str(folder / base["model"]["path"])
    base["data"]["cache"] = str(folder / base["data"]["cache"])
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(base))
    if base["engine"].get("kind") != "deepspeed":
        assert quiet(["train", str(path)]) == 0
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    paths = os.pathsep.join(path for path in sys.path if path)
    preloaded.run(
        [sys.executable, "-m", "tests.ranks", "2", port, "-m", "tglo.cli", "train", str(path)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=240,
        capture_output=True,
    )


def demo(folder: Path) -> dict[str, Any]:
    """The numbers of `tglo demo --quick`."""
    assert quiet(["demo", "--output", str(folder / "demo"), "--quick"]) == 0
    report: dict[str, Any] = json.loads((folder / "demo/report/report.json").read_text())
    return {key: report[key] for key in report if key not in ("seconds", "report")}


def help_texts() -> dict[str, str]:
    """`tglo COMMAND --help` of every command, 100 columns wide."""
    found = {}
    with mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"}):
        for name in COMMANDS:
            text = io.StringIO()
            with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
                main([name, "--help"])
            found[name] = text.getvalue()
    return found


def metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without what a clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith(TIMES)}
        for line in lines
    ]


def weights(export: Path) -> dict[str, Any]:
    """Digest and mean square of an export's trained tensors."""
    part = next((export / n for n in ("unet", "transformer") if (export / n).is_dir()), export)
    (file,) = part.glob("*.safetensors")
    tensors = load_file(file)
    digest, square, count = hashlib.sha256(), 0.0, 0
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
        square += float(tensors[name].double().square().sum())
        count += tensors[name].numel()
    return {"weights": digest.hexdigest(), "mean_square": square / count}


def digests(folder: Path, leave_out: str = "") -> dict[str, str]:
    """SHA-256 of every file of a folder, by name, but those that hold times of files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if not path.name.endswith(".sources.json")]
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in names.items()
        if not (leave_out and name.startswith(f"{leave_out}/"))
    }


def quiet(arguments: list[str]) -> int:
    """`tglo ARGUMENTS`, its output dropped."""
    with contextlib.redirect_stdout(io.StringIO()):
        return main(arguments)
