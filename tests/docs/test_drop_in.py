"""docs/drop-in.md, masked.md and wrappers.md: their Python blocks run and do what the pages say."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.drop_in.miniature import (
    BLOCKS,
    BLOCKS_OF_PAGE,
    PAGE,
    add_noise,
    gradient,
    make_batch,
    make_step,
    run,
)
from tglo import tgo_loss
from tglo.ops import choice
from tglo.ops.self_check import machine
from tglo.threshold.frozen import estimate

TESTS = Path(__file__).parents[1]


@pytest.fixture
def space() -> dict[str, Any]:
    """The names that a block finds around it."""
    torch.manual_seed(0)
    loader = [make_batch(4) for _ in range(4)]
    scores = torch.cat([batch["scores"] for batch in loader]).numpy()
    names = make_step(loader[0]["latents"])
    return names | {
        "optimizer": torch.optim.AdamW(names["policy"].parameters(), lr=1e-3),
        "loader": loader,
        "batch": loader[0],
        "all_scores": scores,
        "threshold": estimate(scores),
        "args": SimpleNamespace(temperature=1e-3),
        "add_noise": add_noise,
        "accumulation": 2,
        "device": "cpu",
        "seed": 0,
    }


def test_every_python_block_is_marked_and_named_once() -> None:
    assert BLOCKS_OF_PAGE == PAGE.count("```python") == PAGE.count("<!-- run: ")


def test_every_block_is_run() -> None:
    sources = "".join(
        path.read_text() for folder in ("docs", "drop_in") for path in TESTS.glob(f"{folder}/*.py")
    )
    assert [name for name in BLOCKS if f'run("{name}"' not in sources] == []


def test_threshold_block(
    space: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = space.pop("threshold")
    assert run("threshold", space)["threshold"] == expected
    assert (tmp_path / "threshold.json").is_file()
    assert "positive" in capsys.readouterr().out


def test_plain_loop_trains_and_takes_bfloat16(space: dict[str, Any]) -> None:
    before = copy.deepcopy(space["policy"].state_dict())
    run("predictions", space)
    run("plain", space)
    assert space["policy_pred"].dtype == torch.bfloat16 and space["noise"].dtype == torch.float32
    after = space["policy"].state_dict()
    assert all(after[name].isfinite().all() for name in after)
    assert all(not torch.equal(before[name], after[name]) for name in after)


def test_micro_batches_are_the_joint_batch(space: dict[str, Any]) -> None:
    space["args"].temperature = 0.1
    space["scores"] = space["batch"]["scores"]
    joint = gradient(run("dpo-after", space))
    parts = [
        tgo_loss(
            space["model_pred"][rows],
            space["target"][rows],
            space["batch"]["scores"][rows],
            space["threshold"].value,
            reference_pred=space["ref_preds"][rows],
            temperature=0.1,
        )
        for rows in (slice(0, 2), slice(2, 4))
    ]
    added = torch.autograd.grad((parts[0] + parts[1]) / 2, list(space["policy"].parameters()))
    for a, b in zip(joint, added, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_expert_loop_trains_as_the_loss_does(space: dict[str, Any]) -> None:
    other = copy.deepcopy(space["policy"])
    optimizer = torch.optim.AdamW(other.parameters(), lr=1e-3)
    run("predictions", space)
    torch.manual_seed(1)
    run("expert", space)
    with pytest.raises(RuntimeError, match="does not require grad"):
        space["loss"].backward()
    torch.manual_seed(1)
    for step, batch in enumerate(space["loader"]):
        noise = torch.randn_like(batch["latents"])
        timesteps = torch.randint(1000, noise.shape[:1])
        inputs = add_noise(batch["latents"], noise, timesteps), timesteps, batch["text"]
        arguments = noise, batch["scores"], space["threshold"].value
        loss = tgo_loss(other(*inputs), *arguments, reference_pred=space["reference"](*inputs))
        (loss / 2).backward()
        if step % 2 == 1:
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(space["policy"].parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)  # AdamW moves by 1e-3 a step


def test_masked_columns_count_for_nothing(space: dict[str, Any]) -> None:
    loss = run("mask", space)["loss"]
    (slope,) = torch.autograd.grad(loss, space["model_pred"], retain_graph=True)
    assert slope[..., -2:].abs().max() == 0 and slope[..., :-2].abs().min() > 0
    space["target"] = space["target"].clone()
    space["target"][..., -2:] = torch.nan
    assert torch.equal(run("mask", space)["loss"], loss)
    kept = [space[name][..., :-2].contiguous() for name in ("model_pred", "target", "ref_preds")]
    scores = space["batch"]["scores"], space["threshold"].value
    torch.testing.assert_close(loss, tgo_loss(*kept[:2], *scores, reference_pred=kept[2]))


def test_tokens_block(space: dict[str, Any]) -> None:
    head = nn.Linear(5, 11, bias=False)
    space |= {
        "head": head,
        "true_tokens": torch.randint(11, (4, 6)),
        "masked": torch.rand(4, 6) < 0.6,
    }
    space["hidden"] = torch.randn(4, 6, 5, requires_grad=True)
    space["reference_hidden"] = space["hidden"].detach() + 0.1
    loss = run("tokens", space)["loss"]
    gradients = torch.autograd.grad(loss, (space["hidden"], head.weight))
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in gradients)


def test_draws_block(space: dict[str, Any]) -> None:
    run("predictions", space)
    assert run("draws", space)["noise"].shape == (8, 4, 8, 8)
    gradient(space)


def test_cached_block_repeats_its_draws(space: dict[str, Any]) -> None:
    gradient(run("cached", space))
    noise, timesteps = space["draw"](torch.tensor([2, 0]), 0, (4, 8, 8))
    assert torch.equal(noise, space["noise"][[2, 0]])  # another order, another batch size
    assert torch.equal(timesteps, space["timesteps"][[2, 0]])
    assert space["stored"].dtype == torch.float64
    space["reference"] = space["policy"]
    assert run("cached", space)["stats"].implicit_score.tolist() == [0.0] * 4


def test_backends_block(space: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    gradient(run("backends", space))
    assert capsys.readouterr().out.splitlines()[-1] in ("cpu", "reference")


def test_automatic_choice_on_a_gpu_is_the_documented_one() -> None:
    assert choice._KERNELS["cuda"] == ("cuda", "triton")
    assert 'On a GPU "auto" takes the CUDA kernels, then Triton\'s, then plain PyTorch' in PAGE
    for word in ("TGLO_SELF_CHECK_FOLDER", "TGLO_SELF_CHECK=0", "XDG_CACHE_HOME"):
        assert word in PAGE
    assert machine.PATIENCE == 300 and "not ended after five minutes" in PAGE
