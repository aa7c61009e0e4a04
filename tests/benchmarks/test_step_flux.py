"""The step benchmark of FLUX: its true size, its smallest form through gpu_step_check.sh, its place on the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.step import computed, operations, suite, tables
from benchmarks.step.contenders import ABLATIONS, GPU_ABLATIONS, LORA, PEERS
from benchmarks.step.models import SIZES
from benchmarks.step.plan import PLANS
from tglo.models.text import TextPart, check_vocabulary

ROOT = Path(__file__).parents[2]
FLUX = PLANS["flux"]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The record of gpu_step_check.sh without a GPU, and what it printed."""
    out = tmp_path_factory.mktemp("flux")
    given = {k: v for k, v in os.environ.items() if not k.startswith(("REHEARSE", "TGLO"))}
    given |= {"PYTHON": sys.executable, "REHEARSE_ONLY": "loss imports step"}
    script = ROOT / "benchmarks" / "gpu_step_check.sh"
    command = ["bash", str(script), "--rehearse", str(out), "--model", "flux"]
    done = subprocess.run(command, capture_output=True, text=True, env=given)
    assert done.returncode == 0, done.stdout
    return json.loads((out / "step.json").read_text()), done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="needs GNU timeout")
def test_every_contender_runs_and_agrees(rehearsal: tuple[dict[str, Any], str]) -> None:
    record, printed = rehearsal
    assert record["model"] == "flux" and record["size"] == "flux-tiny"
    rows = {row["contender"]: row for row in record["rows"]}
    assert rows.keys() == set(FLUX["quick"].contenders)
    for row in rows.values():
        assert row["problem"] is None and row["note"] is None
        assert row["first_loss"] == pytest.approx(row["expected_loss"], rel=1e-4)
        assert row["samples_per_second"] > 0 and row["launches"] > 300
    for train in ("full", "lora"):
        mine = [row for row in rows.values() if row["train"] == train]
        for name in ("gradient_norm", "second_loss"):
            assert max(row[name] for row in mine) == pytest.approx(
                min(row[name] for row in mine), rel=1e-3
            )
        assert mine[0]["second_loss"] != mine[0]["first_loss"]
        assert len({row["launches"] for row in mine}) == len(mine)
    assert suite.problems(record) == []
    assert "flux-tiny; " in printed and PEERS["lora"] in printed


def test_records_are_shown_by_their_model(rehearsal: tuple[dict[str, Any], str]) -> None:
    flux = {**rehearsal[0], "file": "flux-cpu.json"}
    old = {**{k: v for k, v in flux.items() if k != "model"}, "file": "cpu.json"}
    blocks = tables.blocks([flux, old])
    assert "`benchmarks/results/step/cpu.json`" in blocks["step cpu"]
    assert "`benchmarks/results/step/flux-cpu.json`" in blocks["step flux cpu"]
    assert "No GPU has run this step yet" in blocks["step flux gpu"]


def test_flux_has_its_size() -> None:
    with torch.device("meta"):
        transformer = SIZES["flux"].make_denoiser()
    assert sum(parameter.numel() for parameter in transformer.parameters()) == 11_901_408_320
    assert SIZES["flux"].latent_shape == (16, 128, 128)


def test_calls_do_not_depend_on_a_width() -> None:
    found = operations.count_calls(SIZES["flux-tiny"])
    assert found.reference * 2 < found.full < 4 * found.reference
    assert found.text > 50 and found.vae > 10
    flops = operations.count(SIZES["flux-tiny"])
    lines = computed.parts(
        dict.fromkeys(computed.NAMES, flops), dict.fromkeys(computed.NAMES, found)
    )
    assert lines.count(f"| {found.lora} |") == len(computed.NAMES)


@pytest.mark.parametrize("name", SIZES)
def test_tokenizers_fit_their_encoders(name: str, tmp_path: Path) -> None:
    size = SIZES[name]
    with torch.device("meta"):
        parts = {part: size.make_text_encoder(part) for part in size.text_classes}
        parts |= {size.denoiser_part: size.make_denoiser(), "vae": size.make_vae()}
    pipeline = size.make_pipeline(parts)
    for tokenizer, part in zip(size.tokenizer_classes, size.text_classes, strict=True):
        parts[part].config.save_pretrained(tmp_path / part)
        check_vocabulary(TextPart(tokenizer, part), pipeline.components[tokenizer], tmp_path)


def test_the_gpu_plan_is_of_a_lora_and_changes_one() -> None:
    plan = FLUX["cuda"]
    main, ablation = plan.groups()
    assert main.contenders[0].name == PEERS["lora"] and main.contenders[1].name == LORA
    changed = {**ABLATIONS[LORA], **GPU_ABLATIONS[LORA]}
    assert {c.name for c in ablation.contenders} < {c.name for c in changed.values()}
    assert all(c.train == "lora" for c in (*main.contenders, *ablation.contenders))
    assert SIZES[plan.size].engine["kind"] == "deepspeed" and plan.seconds < 480
