"""The step benchmark of Wan: its true size, and its smallest form with all contenders."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import torch

from benchmarks.step import suite, tables
from benchmarks.step.contenders import PEERS
from benchmarks.step.models import SIZES
from benchmarks.step.models.wan import SHIFT
from benchmarks.step.plan import PLANS
from tests.preloaded import run
from tglo.noise.schedule import Schedule

WAN = PLANS["wan"]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("wan") / "record.json"
    flags = ["--quick", "--model", "wan", "--output", str(output)]
    done = run([sys.executable, "-m", "benchmarks.step", *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text())


def test_every_contender_runs_and_agrees(record: dict[str, Any]) -> None:
    assert record["model"] == "wan" and record["size"] == "wan-tiny"
    rows = {row["contender"]: row for row in record["rows"]}
    assert rows.keys() == set(WAN["quick"].contenders)
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
        assert mine[0]["contender"] == PEERS[train]
    assert suite.problems(record) == []


def test_its_record_has_a_place_on_the_page(record: dict[str, Any]) -> None:
    blocks = tables.blocks([{**record, "file": "wan-cpu.json"}])
    assert "`benchmarks/results/step/wan-cpu.json`" in blocks["step wan cpu"]
    assert "No GPU has run this step yet" in blocks["step wan gpu"]


def test_wan_has_its_size() -> None:
    with torch.device("meta"):
        transformer = SIZES["wan"].make_denoiser()
    assert sum(parameter.numel() for parameter in transformer.parameters()) == 1_418_996_800
    assert SIZES["wan"].latent_shape == (16, 21, 78, 78)


@pytest.mark.parametrize("name", ["wan-small", "wan-tiny"])
def test_the_peers_noise_is_the_models(name: str, tmp_path: Any) -> None:
    """Theirs by FlowMatchEulerDiscreteScheduler, as in training scripts; tglo's by the pipeline's UniPC."""
    size = SIZES[name]
    with torch.device("meta"):
        parts = {"text_encoder": size.make_text_encoder("text_encoder")}
        parts |= {"transformer": size.make_denoiser(), "vae": size.make_vae()}
    ours = Schedule.from_scheduler(size.make_pipeline(parts).scheduler)
    theirs = Schedule.from_scheduler(size.make_scheduler(tmp_path))
    torch.testing.assert_close(ours.s, theirs.s)
    index = torch.tensor([0, 499, 999])
    latents, noise = torch.zeros(3, *size.latent_shape), torch.ones(3, *size.latent_shape)
    found = size.noised(size.make_scheduler(tmp_path), latents, noise, index)
    torch.testing.assert_close(found.noisy[:, 0, 0, 0, 0], ours.s[index].float())
    torch.testing.assert_close(found.timesteps, ours.timesteps[index])
    half = SHIFT * 0.5 / (1 + (SHIFT - 1) * 0.5)
    assert ours.s[499].item() == pytest.approx(half)
