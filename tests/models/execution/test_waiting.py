"""Between two steps the host waits for no GPU: the meta device stands for it, from which nothing can be read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.models.execution.conftest import FLOW, uneven
from tglo import models
from tglo.cache.drawer import CachedRows, Drawer, DrawRule


class Copies(TorchDispatchMode):
    """Counts copies between the CPU and the device."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, result)) if isinstance(x, torch.Tensor)]
        if "copy" in func.name() and len({x.device for x in tensors}) > 1:
            self.shapes.append(tuple(tensors[0].shape))
        return result


def rows_of(family: models.Family, longest: int) -> CachedRows:
    names = ("original_size", "crop", "target_size")
    shape = family.latent_shape(32, 32)
    return CachedRows(
        ids=torch.arange(2),
        keys=torch.arange(2),
        draw_index=torch.arange(2),
        stored={"mean": torch.zeros(2, *shape), "std": torch.ones(2, *shape)},
        text=uneven(family, longest=longest).conditions,
        sizes={name: torch.ones(2, 2, dtype=torch.int64) for name in names},
    )


@pytest.mark.parametrize("kind", FLOW)
def test_a_draw_and_both_passes_wait_for_nothing(kind: str, flow_folders: dict[str, Path]) -> None:
    """But for tables that a first call copies; the rows themselves come from pinned memory."""
    family: Any = models.load(flow_folders[kind], encoders=False)
    batches = [rows_of(family, longest) for longest in (16, 40)]
    family.to("meta")
    empty = {name: tensor[:1] for name, tensor in family.example_text(1).items()}
    cache: Any = SimpleNamespace(unconditional=lambda: empty)
    drawer = Drawer(DrawRule(0, 0.0, 4, stratified=True), cache, family, torch.float32)
    seen = Copies()
    for batch in batches:
        draw = drawer.draw(batch)
        seen.shapes.clear()
        with seen:
            drawer.schedule.timestep_weight(draw.index, "none", 5.0)
            family.predict(family.denoiser, draw).square().mean().backward()
    assert seen.shapes == []
    with seen:
        drawer.draw(batches[0])
    tensors = [x for x in tree_leaves(vars(batches[0])) if isinstance(x, torch.Tensor)]
    assert len(seen.shapes) == len(tensors)
    assert next(family.denoiser.parameters()).grad is not None
