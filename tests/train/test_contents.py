"""Copies of what a checkpoint holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tglo.train.contents import Files, HostCopy, files_of, host_size, size, write


def files() -> Files:
    wide = torch.randn(4, 6, 3, 3).contiguous(memory_format=torch.channels_last)
    return {
        "model.safetensors": {"a": torch.randn(5, 7), "wide": wide, "step": torch.tensor(3.0)},
        "optimizer.safetensors": {"a": torch.randn(8)[::2].to(torch.bfloat16)},
        "scaler.json": "{}",
    }


def written(content: Files, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    write(content, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_copy_writes_the_same_bytes_whatever_becomes_of_the_tensors(tmp_path: Path) -> None:
    live = files()
    before = written(live, tmp_path / "live")
    copied = HostCopy().take(live)
    for tensors in live.values():
        if not isinstance(tensors, str):
            for tensor in tensors.values():
                tensor.add_(1)
    assert written(copied, tmp_path / "copied") == before
    assert written(live, tmp_path / "later") != before


def test_the_memory_is_taken_again_where_it_fits() -> None:
    copy = HostCopy()
    first = copy.take({"f": {"a": torch.zeros(3), "b": torch.zeros(3)}})["f"]
    second = copy.take({"f": {"a": torch.ones(3), "b": torch.ones(4), "c": torch.ones(2)}})["f"]
    assert not isinstance(first, str) and not isinstance(second, str)
    assert first["a"].data_ptr() == second["a"].data_ptr()
    assert [second[key].tolist() for key in "abc"] == [[1.0] * 3, [1.0] * 4, [1.0] * 2]


def test_parameters_are_copied_without_their_graph() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    (copied,) = HostCopy().take({"f": {"a": weight}})["f"].values()  # type: ignore[union-attr]
    assert not copied.requires_grad


def test_sizes_and_parts() -> None:
    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        def files(self) -> Files:
            return {self.name: {"a": torch.zeros(3)}, f"{self.name}.json": "text"}

    both = files_of([Part("x"), Part("y")])
    assert list(both) == ["x", "x.json", "y", "y.json"] and size(both) == host_size(both) == 24


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_of_a_gpu_it_is_pinned_and_complete() -> None:
    live = torch.randn(1 << 22, device="cuda")
    expected = live.cpu()
    (copied,) = HostCopy().take({"f": {"a": live}})["f"].values()  # type: ignore[union-attr]
    live.zero_()
    assert host_size({"f": {"a": live[:-1]}}) == live.nbytes
    assert copied.is_pinned() and torch.equal(copied, expected)
