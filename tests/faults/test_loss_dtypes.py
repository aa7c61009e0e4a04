"""Fault 13: dtypes that are promoted, dtypes and layouts of tensors that are refused by name."""

from __future__ import annotations

import pytest
import torch

from tests.faults.loss_calls import plain, wrong
from tests.ops.loss_cases import outcome
from tglo import tgo_loss


def test_13_mixed_dtypes_are_promoted_and_integers_refused() -> None:
    case = plain()
    half = case._replace(target=case.target.half(), reference_pred=case.reference_pred.bfloat16())
    same = half._replace(target=half.target.float(), reference_pred=half.reference_pred.float())
    assert torch.equal(outcome(half, tgo_loss).loss, outcome(same, tgo_loss).loss)
    with pytest.raises(TypeError, match=r"target has dtype torch\.int64; pass bfloat16"):
        case._replace(target=case.target.long()).call(tgo_loss)
    with pytest.raises(TypeError, match=r"threshold has dtype torch\.bool; pass real numbers"):
        case._replace(threshold=case.scores > 0).call(tgo_loss)


FOREIGN = {
    "float8_e4m3fn": lambda x: x.to(torch.float8_e4m3fn),
    "float8_e5m2": lambda x: x.to(torch.float8_e5m2),
    "complex64": lambda x: x.to(torch.complex64),
    "bool": lambda x: x > 0,
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize(
    "name",
    [
        *("policy_pred", "target", "reference_pred", "scores", "threshold", "timestep_weight"),
        "sample_weight",
    ],
)
def test_13_other_dtypes_are_refused_by_name(name: str, kind: str) -> None:
    if (name, kind) == ("scores", "bool"):
        return  # labels: tests/losses/test_samples.py
    case = plain()
    found = {"policy_pred": case.policy_pred.detach(), "target": case.target}
    value = found.get(name, case.reference_pred if name == "reference_pred" else torch.rand(4))
    with pytest.raises(TypeError, match=rf"{name} has dtype torch\.{kind}; pass "):
        wrong(case, **{name: FOREIGN[kind](value)})
    with pytest.raises(TypeError, match=rf"reference_error has dtype torch\.{kind}; pass real"):
        wrong(case, reference_pred=None, reference_error=FOREIGN[kind](torch.rand(4)))
    if kind != "bool":
        with pytest.raises(TypeError, match=rf"mask has dtype torch\.{kind}; pass real numbers"):
            wrong(case, mask=FOREIGN[kind](torch.ones(4, 1, 1)))


def test_13_a_threshold_of_no_dimensions_is_checked_as_well() -> None:
    for value in (torch.tensor(True), torch.tensor(1j)):
        with pytest.raises(TypeError, match="threshold has dtype"):
            wrong(plain(), threshold=value)


def test_13_integer_scores_are_exact_up_to_two_to_the_53() -> None:
    scores = torch.tensor([2**53 - 1, 2**53, 2**53 - 2, 0])
    for dtype in (torch.int64, torch.uint64):
        _, stats = wrong(
            plain(), scores=scores.to(dtype), threshold=float(2**53), return_stats=True
        )
        assert stats.label.tolist() == [False, True, False, False]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", ["sparse", "nested", "jagged", "mkldnn"])
@pytest.mark.parametrize(
    "name", ["policy_pred", "target", "reference_pred", "scores", "threshold", "mask"]
)
def test_13_tensors_of_other_layouts_are_refused_by_name(name: str, kind: str) -> None:
    def changed(value: torch.Tensor) -> torch.Tensor:
        if kind == "sparse":
            return value.to_sparse()
        if kind == "mkldnn":
            return value.to_mkldnn()
        layout = torch.jagged if kind == "jagged" else torch.strided
        return torch.nested.nested_tensor(list(value), layout=layout)

    case = plain()
    values = {
        "policy_pred": case.policy_pred.detach(),
        "target": case.target,
        "reference_pred": case.reference_pred,
        "mask": torch.ones(4, 3, 5),
    }
    value = values.get(name, case.scores if kind in ("sparse", "mkldnn") else torch.rand(4, 1))
    with pytest.raises(TypeError, match=rf"{name} is a .* tensor; pass an ordinary one"):
        wrong(case, **{name: changed(value)})
