"""What is divided among ranks is put together by name, in any other division; what does not fit is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tglo.files import DamagedFile
from tglo.train.contents import write
from tglo.train.engines import shards
from tglo.train.engines.layouts import open_stored
from tglo.train.engines.shards import Fragment, Shards

WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(10.0, 15.0), "c": torch.tensor(7.0)}
ADAMW = torch.optim.AdamW([torch.zeros(1)])


def save(folder: Path, ranks: int, per_weight: bool) -> Path:
    """Shards of WEIGHTS, by slices of all in a row or of each, with moments of twice and three times the weights."""
    for rank in range(ranks):
        fragments: dict[str, Fragment] = {}
        parts: list[Tensor] = []
        row = torch.cat([w.flatten() for w in WEIGHTS.values()])
        size = -(-len(row) // ranks)
        place = offset = 0
        for name, weight in WEIGHTS.items():
            count = weight.numel()
            if per_weight:
                share = -(-count // ranks)
                low, high = min(rank * share, count), min((rank + 1) * share, count)
            else:
                low = min(max(rank * size - place, 0), count)
                high = min(max((rank + 1) * size - place, 0), count)
            if high > low:
                fragments[name] = Fragment(0, offset, low, high - low)
                parts.append(weight.flatten()[low:high])
                offset += high - low
            place += count
        group = torch.cat([*parts, torch.full((2,), -1.0)])  # with padding
        step = torch.tensor(5.0)
        state = {"step": step, "exp_avg": 2 * group, "exp_avg_sq": 3 * group}
        shapes = {name: tuple(w.shape) for name, w in WEIGHTS.items()}
        write(shards.files(rank, ranks, shapes, fragments, [group], [state]), folder)
    return folder


@pytest.mark.parametrize("per_weight", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_weights_and_states_come_back_whole_and_in_parts(
    ranks: int, per_weight: bool, tmp_path: Path
) -> None:
    source = open_stored(save(tmp_path, ranks, per_weight))
    assert isinstance(source, Shards)
    source.check(ADAMW, WEIGHTS)
    for name, weight in WEIGHTS.items():
        assert torch.equal(source.weight(name), weight)
        state = source.state(name)
        assert torch.equal(state["exp_avg"], 2 * weight)
        assert torch.equal(state["exp_avg_sq"], 3 * weight) and float(state["step"]) == 5
        for start in range(weight.numel()):
            for end in range(start + 1, weight.numel() + 1):
                part = torch.zeros(end - start)
                source.fill(part, name, "exp_avg", start)
                assert torch.equal(part, 2 * weight.flatten()[start:end])


def change(key: str, value: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "shard-00001.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))

    return edit


def without(key: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "shard-00001.safetensors"
        tensors = load_file(file)
        del tensors[key]
        save_file(tensors, file)

    return edit


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "a missing file": (lambda f: (f / "shard-00001.safetensors").unlink(), "No such file"),
    "a torn table": (lambda f: (f / "shard-00001.json").write_text("{"), "truncated"),
    "another version": (change("version", 2), "layout 2, of another version"),
    "a part that is not there": (change("fragments", {}), "elements of"),
    "a part twice": (change("fragments", {"a": [0, 0, 0, 5]}), "of a begins at 0, not 6"),
    "a part beyond the end": (change("fragments", {"b": [0, 5, 2, 90]}), "lacks its part of b"),
    "a group that is not there": (change("fragments", {"b": [1, 0, 2, 3]}), "not there"),
    "a negative place": (change("fragments", {"b": [0, -1, 2, 3]}), "lacks its part of b"),
    "no numbers": (change("numbers", [{}]), "0/step"),
    "no weights": (without("0/weight"), "lacks its part"),
    "no moment": (without("0/exp_avg"), "0/exp_avg"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_damaged(wrong: str, tmp_path: Path) -> None:
    edit, words = WRONG[wrong]
    save(tmp_path, 2, per_weight=False)
    edit(tmp_path)
    with pytest.raises((DamagedFile, OSError), match=words):
        open_stored(tmp_path).check(ADAMW, WEIGHTS)


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.zeros(3, 2), "b": WEIGHTS["b"], "c": WEIGHTS["c"]},
        {"a": WEIGHTS["a"], "b": WEIGHTS["b"]},
        {**WEIGHTS, "d": torch.zeros(1)},
        {**WEIGHTS, "b": WEIGHTS["b"].half()},
    ],
)
def test_weights_of_another_form_are_damaged(other: dict[str, Tensor], tmp_path: Path) -> None:
    save(tmp_path, 2, per_weight=True)
    with pytest.raises(DamagedFile):
        open_stored(tmp_path).check(ADAMW, other)


def test_another_layouts_table_is_told_by_its_number(tmp_path: Path) -> None:
    """Whatever form the rest of it has."""
    save(tmp_path, 1, False)
    (tmp_path / shards.table_file(0)).write_text('{"version": 2, "fragments": []}')
    with pytest.raises(DamagedFile, match="it has layout 2, of another version of tglo"):
        open_stored(tmp_path).weight("a")
