"""LoRA runs whose frozen weights are in half precision, in 8 or in 4 bits."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from tests import tiny, tiny_flow
from tests.models.families.test_toy import manifest
from tests.train.conftest import write_toml
from tests.train.test_distributed import WORKER, finish, start
from tglo.cache.drawer import DrawRule
from tglo.cache.make import build, build_reference
from tglo.commands.cache import flags_of
from tglo.data.errors import CacheError
from tglo.models import quantization
from tglo.settings import ReferenceOptions
from tglo.train import TrainConfig, train
from tglo.train.config_checks import check
from tglo.train.config_files import parse_config
from tglo.train.finished_run import export_run

BUILDERS: dict[str, Callable[..., Path]] = {
    "flux": tiny_flow.build_flux,
    "sdxl": tiny.build_sdxl,
    "amused": tiny.build_amused,
}
QUANTIZED = ("int8", "nf4")
KINDS = ("half", "int8", "nf4")
SIDE = 32


def needs(kind: str) -> None:
    if kind in QUANTIZED:
        pytest.importorskip("bitsandbytes", reason=f"{kind} is a format of bitsandbytes")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> a folder with a model, data and their cache."""
    found = {}
    for name, builder in BUILDERS.items():
        root = found[name] = tmp_path_factory.mktemp(name)
        builder(root / "model")
        scored = manifest(root / "data")
        build(str(root / "model"), scored, root / "cache", resolution=SIDE, device="cpu")
    return found


def config(root: Path, run: Path, kind: str, **parts: dict[str, Any]) -> TrainConfig:
    settings: dict[str, dict[str, Any]] = {
        "model": {"path": str(root / "model"), "train": "lora", "base_weights": kind},
        "data": {"manifest": str(root / "data" / "scored.csv"), "cache": str(root / "cache")},
        "objective": {"temperature": 0.1},
        "optimizer": {"steps": 2, "micro_batch": 3, "learning_rate": 1e-2, "schedule": "constant"},
        "engine": {"device": "cpu", "kind": "plain", "precision": "bf16"},
        "output": {"folder": str(run), "progress": False, "log_every": 1},
    }
    for name, values in parts.items():
        settings[name] |= values
    return parse_config(settings)


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def first_r(run: Path) -> float:
    first = lines(run)[0]
    return max(abs(first["r_positive"]), abs(first["r_negative"]))


def lora_bytes(export: Path) -> bytes:
    return (export / "pytorch_lora_weights.safetensors").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", BUILDERS)
def test_policy_and_reference_are_equal_at_first_and_the_lora_is_trained(
    family: str, kind: str, roots: dict[str, Path], tmp_path: Path
) -> None:
    """r is exactly 0 before the first update, and a run with a copy is the same bit for bit."""
    needs(kind)
    root, exports = roots[family], []
    for name, reference in (("a", "adapter-off"), ("b", "copy")):
        run = tmp_path / name
        result = train(config(root, run, kind, objective={"reference": reference}))
        assert first_r(run) == 0.0, name
        assert abs(lines(run)[-1]["r_positive"]) > 0
        assert result.export is not None
        exports.append(result.export)
    one, other = (
        {path.name: path.read_bytes() for path in export.glob("*.safetensors")}
        for export in exports
    )
    assert one == other


@pytest.mark.parametrize("kind", KINDS)
def test_the_lora_is_loaded_by_diffusers_and_changes_its_images(
    kind: str, roots: dict[str, Path], tmp_path: Path
) -> None:
    needs(kind)
    root = roots["flux"]
    result = train(config(root, tmp_path / "run", kind))
    pipeline = DiffusionPipeline.from_pretrained(root / "model")
    before = image_of(pipeline)
    pipeline.load_lora_weights(result.export)
    assert image_of(pipeline) != before
    assert lora_bytes(export_run(tmp_path / "run", tmp_path / "again")) == lora_bytes(result.export)


def image_of(pipeline: Any) -> bytes:
    pipeline.set_progress_bar_config(disable=True)
    options = {"height": SIDE, "width": SIDE, "num_inference_steps": 2}
    generator = torch.Generator().manual_seed(0)
    return pipeline(prompt="grey 1", generator=generator, **options).images[0].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_same_run(kind: str, roots: dict[str, Path], tmp_path: Path) -> None:
    """Validation between must leave no trace either, and a checkpoint has the LoRA alone."""
    needs(kind)
    exports = []
    for stops in ((4,), (2, 4)):
        run = tmp_path / f"run{len(stops)}"
        for steps in stops:
            result = train(
                config(
                    roots["flux"],
                    run,
                    kind,
                    optimizer={"steps": steps, "ema_decay": 0.5},
                    output={
                        "save_every": 2,
                        "validation_prompts": ["grey 1"],
                        "validation_every": 1 if stops == (4,) else 3,
                        "validation_steps": 1,
                    },
                )
            )
        exports.append(result.export)
    assert lora_bytes(exports[0]) == lora_bytes(exports[1])
    assert len(list((tmp_path / "run1" / "samples").rglob("*.png"))) == 4
    for file in (tmp_path / "run1" / "checkpoints").rglob("model.safetensors"):
        with safe_open(file, "pt") as weights:
            assert all("lora_" in name for name in weights.keys())


@pytest.mark.parametrize(("kind", "stage"), [("nf4", 0), ("nf4", 1), ("int8", 2)])
def test_deepspeed_trains_and_resumes(
    kind: str, stage: int, roots: dict[str, Path], tmp_path: Path
) -> None:
    """And leaves nothing in the environment by which a later run would take this process for one of a launcher."""
    needs(kind)
    pytest.importorskip("deepspeed")
    before = dict(os.environ)
    exports = []
    for stops in ((4,), (2, 4)):
        run = tmp_path / f"run{len(stops)}"
        for steps in stops:
            result = train(
                config(
                    roots["flux"],
                    run,
                    kind,
                    optimizer={"steps": steps},
                    engine={"kind": "deepspeed", "zero_stage": stage},
                    output={"save_every": 2},
                )
            )
        assert first_r(run) == 0.0
        exports.append(result.export)
    assert {**os.environ, "PYTEST_CURRENT_TEST": ""} == {**before, "PYTEST_CURRENT_TEST": ""}
    assert lora_bytes(exports[0]) == lora_bytes(exports[1])
    last = max((tmp_path / "run1" / "checkpoints").glob("step-*"))
    if stage:
        kept = list(json.loads((last / "shard-00000.json").read_text())["shapes"])
    else:
        kept = list(load_file(last / "model.safetensors"))
    assert kept and all("lora_" in name for name in kept)


@pytest.mark.timeout(300)
def test_two_processes_are_one(roots: dict[str, Path], tmp_path: Path) -> None:
    """Each holds the quantised weights; without them in half precision, so that sums differ by rounding alone."""
    needs("nf4")
    pytest.importorskip("deepspeed")
    files, runs = [], []
    for kind, stage in (("int8", 0), ("nf4", 2)):
        alone = {"engine": {"precision": "fp32"}, "optimizer": {"micro_batch": 2}}
        train(config(roots["flux"], tmp_path / f"{kind}-alone", kind, **alone))
        engine = {"precision": "fp32", "kind": "deepspeed", "zero_stage": stage}
        run = tmp_path / f"{kind}-two"
        parts = {"engine": engine, "optimizer": {"micro_batch": 1}}
        together = config(roots["flux"], run, kind, **parts)
        files.append(str(write_toml(together, tmp_path / f"{kind}.toml")))
        runs.append((run, tmp_path / f"{kind}-alone"))
    process = start(str(WORKER), *files)
    output = finish(process)
    assert process.returncode == 0, output[-3000:]
    for run, one in runs:
        assert first_r(run) == 0.0
        found, expected = ([line["loss"] for line in lines(folder)] for folder in (run, one))
        assert found == pytest.approx(expected, rel=1e-4), run.name


def test_another_kind_needs_a_new_run(roots: dict[str, Path], tmp_path: Path) -> None:
    train(config(roots["flux"], tmp_path, "half"))
    with pytest.raises(ValueError, match=r"model\.base_weights = half, this run has .* = default"):
        train(config(roots["flux"], tmp_path, "default", optimizer={"steps": 3}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", BUILDERS)
def test_cached_errors_are_those_of_the_run(
    family: str, kind: str, roots: dict[str, Path], tmp_path: Path
) -> None:
    """In fp32 the batch leaves more rounding than the formats, so bf16 is the harder case here."""
    needs(kind)
    root, reference = roots[family], tmp_path / "reference"
    cached = config(
        root,
        tmp_path / "run",
        kind,
        objective={"reference": "cached"},
        data={"reference_cache": str(reference)},
        output={"export": False},
    )
    flags = flags_of(cached)
    assert flags["forward"].base_weights == kind and flags["reference"]
    make_errors(root, reference, flags["forward"])
    train(cached)
    assert first_r(tmp_path / "run") <= 1e-5
    before = (reference / "fingerprint.json").read_text()
    assert ("base_weights" in before) == (kind in QUANTIZED)


def make_errors(root: Path, output: Path, options: ReferenceOptions) -> None:
    rule = DrawRule(0, 0.1, draws=2, stratified=True)
    build_reference(
        str(root / "model"), root / "cache", output, rule, options, device="cpu", progress=False
    )


@pytest.mark.parametrize("pair", [("nf4", "int8"), ("nf4", "default"), ("default", "nf4")], ids=str)
def test_errors_of_other_weights_are_refused(
    pair: tuple[str, str], roots: dict[str, Path], tmp_path: Path
) -> None:
    made, run = pair
    for kind in pair:
        needs(kind)
    options = ReferenceOptions(precision="bf16", base_weights=made)  # type: ignore[arg-type]
    make_errors(roots["flux"], tmp_path / "reference", options)
    with pytest.raises(CacheError, match="base_weights"):
        train(
            config(
                roots["flux"],
                tmp_path / "run",
                run,
                objective={"reference": "cached"},
                data={"reference_cache": str(tmp_path / "reference")},
            )
        )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model": {"train": "full"}}, "model.base_weights is nf4, .* use model.train = lora"),
        (
            {"model": {"base_weights": "half"}, "engine": {"precision": "fp32"}},
            "half, but engine.precision is fp32; use bf16 or fp16",
        ),
        (
            {"engine": {"kind": "deepspeed", "zero_stage": 3}},
            "base_weights is nf4 and zero_stage 3: .* use zero_stage 0, 1 or 2",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_loaded(
    parts: dict[str, dict[str, Any]], message: str, tmp_path: Path
) -> None:
    nowhere = config(tmp_path / "nowhere", tmp_path / "run", "nf4", **parts)
    with pytest.raises(ValueError, match=message):
        check(nowhere)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_a_missing_package_is_named_before_a_model_is_loaded(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=re.escape('pip install ".[bnb]"')):
        train(config(tmp_path / "nowhere", tmp_path / "run", kind))
    quantization.require("half")
