"""What docs/drop-in.md and objectives.md say in numbers, about T, beta, c and half precision, is true."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.drop_in.miniature import DOCS
from tglo import tgo_loss
from tglo.threshold.frozen import estimate

PAGE = (DOCS / "objectives.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading."""
    lines = PAGE[PAGE.index(f"| {heading} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def test_table_of_beta_and_t() -> None:
    rows = table("script")
    assert len(rows) == 5
    for script, beta, strength, temperature in rows:
        halved = "dpo" in script.lower() and "without the 0.5" not in script
        factor = 0.5 if halved else 1.0
        if beta:
            assert factor * float(beta) == float(strength)
        assert float(strength) * float(temperature) == pytest.approx(1.0)


def test_table_of_weights() -> None:
    rows = table("scorer")
    assert len(rows) == 5
    space = {name: torch.zeros(1, 2) for name in ("policy_pred", "target")}
    for _, distance, weight in rows:
        scores = torch.tensor([float(distance)], dtype=torch.float64)
        _, stats = tgo_loss(
            **space, scores=scores, threshold=0, reference_error=torch.zeros(1), return_stats=True
        )
        assert stats.weight.item() == pytest.approx(float(weight))


def test_score_scale_makes_confidence_a_pure_number() -> None:
    """Scores in any unit give the weights of standardised ones."""
    scores = torch.randn(500, dtype=torch.float64).numpy()
    small = estimate(0.03 * scores, score_scale="std")
    large = estimate(scores, score_scale="std")
    at_one = small.confidence(5.0) * small.scale, large.confidence(5.0) * large.scale
    assert at_one == pytest.approx((5.0, 5.0))
    assert small.scale == pytest.approx(0.03 * large.scale)


def test_means_in_half_precision_lose_the_signal() -> None:
    """The page's figures: the worst of 64 r, with the reference's mean or both means in bfloat16."""
    random = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=random)

    def mean_square(prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().mean(1)

    rows = []
    for error in (0.05, 0.1, 0.5):
        target = normal(64, 65536)
        policy = target + error**0.5 * normal(64, 65536)
        other = policy + 3e-4 / error * normal(64, 1) * (policy - target) + 0.01 * normal(64, 65536)
        p, q, y = policy.bfloat16(), other.bfloat16(), target.bfloat16()
        exact = -1000 * (mean_square(p.double(), y.double()) - mean_square(q.double(), y.double()))
        assert 0.4 < exact.abs().mean() < 0.6
        wide, half = mean_square(p.float(), y.float()).double(), mean_square(p, y).double()
        worst = [
            (-1000 * (own - mean_square(q, y).double()) - exact).abs().max().item()
            for own in (wide, half)
        ]
        rows.append(worst)
        scores = torch.ones(64)
        _, stats = tgo_loss(p, y, scores, 0.5, reference_pred=q, return_stats=True)
        assert (stats.implicit_score - exact).abs().max() < 1e-6
    flat = [row[column] for column in (0, 1) for row in rows]
    assert flat == pytest.approx([0.13, 0.24, 1.9, 0.22, 0.43, 3.6], rel=0.05)
