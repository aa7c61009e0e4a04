"""The checks of the most common calls: what they let pass is what all checks return."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.ops.loss_cases import HALF_AND_SINGLE, make_case
from tglo.losses.arguments import loss_arguments
from tglo.losses.common_case import common_arguments

Tensors = tuple[Any, Any, Any, Any]


def call(dtype: torch.dtype = torch.float32) -> tuple[Tensors, dict[str, Any]]:
    case = make_case((4, 3, 5), dtype)
    tensors = case.policy_pred, case.target, case.scores, case.threshold
    return tensors, {"reference_pred": case.reference_pred}


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"beta": 0.5, "temperature": 0.1, "confidence": 0.0},
        {"reduction": "none", "draws": 1},
        {"reduction": "sum"},
    ],
)
def test_common_calls_come_out_as_from_all_checks(
    dtype: torch.dtype, cached: bool, more: dict[str, Any]
) -> None:
    tensors, options = call(dtype)
    if cached:
        options = {"reference_error": torch.rand(4, dtype=torch.float64)}
    found = common_arguments(*tensors, {**options, **more})
    expected = loss_arguments(*tensors, **options, **more)
    assert found is not None
    for mine, whole in zip(found, expected, strict=True):
        assert type(mine) is type(whole)
        assert all(a is b or a == b for a, b in zip(mine, whole, strict=True))


class Other(Tensor):
    """A subclass, which may mean anything."""


def test_every_other_call_goes_through_all_checks() -> None:
    tensors, options = call()
    policy, target, scores, threshold = tensors
    other, error = options["reference_pred"], torch.rand(4)
    bad = (None, "x", 1.0, nn.Parameter(target), target.as_subclass(Other), target.to("meta"))
    bad += (target.to_sparse(), target[:3], target[..., :2], target[0, 0, 0], target.long())
    bad += (torch.nested.nested_tensor([target[0], target[1]]), target[:0], target.double())
    for value in (*bad, target.bfloat16(), target.clone().requires_grad_()):
        assert common_arguments(policy, value, scores, threshold, options) is None
        assert common_arguments(*tensors, {"reference_pred": value}) is None
    for value in bad[:11]:
        assert common_arguments(value, target, scores, threshold, options) is None
    vectors = (scores[:3], scores.view(4, 1), scores.long(), scores.half(), scores.tolist())
    for value in (*vectors, scores.clone().requires_grad_(), scores.to("meta"), None):
        assert common_arguments(policy, target, value, threshold, options) is None
        assert common_arguments(*tensors, {"reference_error": value}) is None
    assert common_arguments(*tensors, {"reference_pred": other, "reference_error": error}) is None
    empty = (policy[:0], target[:0], scores[:0], threshold)
    assert common_arguments(*empty, {"reference_pred": other[:0]}) is None
    for limit in (1, True, None, math.nan, math.inf, torch.tensor(0.5), "0.5"):
        assert common_arguments(policy, target, scores, limit, options) is None
    for name in ("beta", "temperature", "confidence"):
        for number in (1, True, None, math.nan, math.inf, -1.0, torch.tensor(0.5)):
            assert common_arguments(*tensors, {**options, name: number}) is None
    for name, value in (
        *(("beta", 0.0), ("temperature", 0.0), ("reduction", "max"), ("reduction", None)),
        *(("draws", True), ("draws", 2), ("draws", 1.0), ("mask", None), ("unknown", 1)),
    ):
        assert common_arguments(*tensors, {**options, name: value}) is None
