"""docs/drop-in.md, masked.md and wrappers.md: their Python blocks run and do what the pages say."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tglo import ops, tgo_loss
from tglo.threshold.frozen import estimate

DOCS = Path(__file__).parents[2] / "docs"
PAGE = "".join((DOCS / name).read_text() for name in ("drop-in.md", "masked.md", "wrappers.md"))
BLOCKS = dict(re.findall(r"<!-- run: (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))
KTO_TEMPERATURE = "temperature=1 / args.beta_dpo"
BLOCKS_OF_PAGE = len(BLOCKS)
BLOCKS["kto-after"] = BLOCKS["dpo-after"].replace("temperature=args.temperature", KTO_TEMPERATURE)
# What the call replaces in the scripts, in their names. Diffusion-DPO's train.py has no `.float()`.
ERRORS = """
error = functional.mse_loss(model_pred.float(), target.float(), reduction="none").mean((1, 2, 3))
ref_error = functional.mse_loss(ref_preds.float(), target.float(), reduction="none").mean((1, 2, 3))
"""
BLOCKS["dpo-before"] = (
    ERRORS
    + """
winner, loser = (error - ref_error).chunk(2)
loss = -functional.logsigmoid(-0.5 * args.beta_dpo * (winner - loser)).mean()
"""
)
BLOCKS["kto-before"] = (
    ERRORS
    + """
gain = -error - -ref_error
baseline = gain.mean().clamp(min=0).detach()  # averaged over all processes
sign = 2 * batch["labels"] - 1
loss = (1 - torch.sigmoid(sign * args.beta_dpo * (gain - baseline))).mean()
"""
)


class Denoiser(nn.Module):
    """The least that has a denoiser's inputs: latents (B, 4, 8, 8), timesteps (B,), text (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4, 8, 3, padding=1)
        self.condition = nn.Linear(4, 8)
        self.leave = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        condition = self.condition(torch.cat([timesteps[:, None] / 1000, text], 1))
        return self.leave(functional.silu(self.enter(noisy) + condition[:, :, None, None]))


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    share = (timesteps / 1000).view(-1, 1, 1, 1)
    return (1 - share).sqrt() * latents + share.sqrt() * noise


def make_batch(size: int) -> dict[str, Tensor]:
    return {
        "latents": torch.randn(size, 4, 8, 8),
        "text": torch.randn(size, 3),
        "scores": torch.rand(size, dtype=torch.float64),
        "labels": torch.arange(size) % 2,
        "ids": torch.arange(size),
    }


@pytest.fixture
def space() -> dict[str, Any]:
    """The names that a block finds around it."""
    torch.manual_seed(0)
    policy = Denoiser()
    reference = copy.deepcopy(policy).requires_grad_(False)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    loader = [make_batch(4) for _ in range(4)]
    batch = loader[0]
    target = torch.randn_like(batch["latents"])
    timesteps = torch.randint(1000, (4,))
    inputs = add_noise(batch["latents"], target, timesteps), timesteps, batch["text"]
    scores = torch.cat([b["scores"] for b in loader]).numpy()
    return {
        "torch": torch,
        "functional": functional,
        "policy": policy,
        "reference": reference,
        "optimizer": torch.optim.AdamW(policy.parameters(), lr=1e-3),
        "loader": loader,
        "batch": batch,
        "target": target,
        "model_pred": policy(*inputs),
        "ref_preds": reference(*inputs),
        "all_scores": scores,
        "threshold": estimate(scores),
        "args": SimpleNamespace(beta_dpo=1000.0, temperature=1e-3),
        "add_noise": add_noise,
        "accumulation": 2,
        "device": "cpu",
        "seed": 0,
        "tgo_loss": tgo_loss,
    }


def run(name: str, space: dict[str, Any]) -> dict[str, Any]:
    exec(compile(BLOCKS[name], f"docs:{name}", "exec"), space)
    return space


def gradient(space: dict[str, Any]) -> list[Tensor]:
    """Of the block's loss, in every parameter; none may be missing, zero or not finite."""
    parameters = list(space["policy"].parameters())
    found = torch.autograd.grad(space["loss"], parameters, retain_graph=True)
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in found)
    return list(found)


def differences(space: dict[str, Any]) -> Tensor:
    """e_theta - e_ref of each row in float64, written out."""
    p, q, y = (space[name].detach().double() for name in ("model_pred", "ref_preds", "target"))
    return (p - y).square().mean((1, 2, 3)) - (q - y).square().mean((1, 2, 3))


def test_every_python_block_is_marked_and_named_once() -> None:
    assert BLOCKS_OF_PAGE == PAGE.count("```python") == PAGE.count("<!-- run: ")


def test_the_conversions_of_beta_are_on_the_page() -> None:
    assert f"`{KTO_TEMPERATURE}`" in PAGE and "`temperature=2 / args.beta_dpo`" in PAGE
    assert BLOCKS["kto-after"] != BLOCKS["dpo-after"]


@pytest.mark.parametrize("name", ["dpo-before", "dpo-after", "kto-before", "kto-after", "mask"])
def test_loss_blocks_reach_every_parameter(name: str, space: dict[str, Any]) -> None:
    gradient(run(name, space))


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


def test_dpo_statistics_replace_those_of_the_script(space: dict[str, Any]) -> None:
    stats = run("dpo-after", space)["stats"]
    error = functional.mse_loss(space["model_pred"], space["target"])
    torch.testing.assert_close(stats.policy_error.mean().float(), error.detach())
    right = (differences(space) < 0) == (space["batch"]["scores"] >= space["threshold"].value)
    assert torch.equal((stats.implicit_score > 0) == stats.label, right)


def test_pairs_alone_are_scores_one_and_zero(space: dict[str, Any]) -> None:
    """Without a confidence the weight is 1, so the loss is softplus of plus or minus r."""
    inputs = space["model_pred"], space["target"], torch.tensor([1, 1, 0, 0]), 0.5
    loss, stats = tgo_loss(
        *inputs, reference_pred=space["ref_preds"], confidence=0, return_stats=True
    )
    sign = torch.tensor([1.0, 1, -1, -1])
    expected = functional.softplus(sign * 1000 * differences(space)).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    assert stats.weight.tolist() == [1.0] * 4


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
    plain = ops.backend_for("tgo_loss", "cuda", torch.bfloat16) == "reference"
    assert plain == ('On a GPU "auto" is therefore plain PyTorch for now' in PAGE)
