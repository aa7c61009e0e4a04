"""What this rank has of the float32 weights and their optimizer state under ZeRO 1 to 3: DeepSpeed's flat groups, and
which part of which weight lies where in them. The places are those that DeepSpeed's own universal checkpoints use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tglo.train import processes
from tglo.train.contents import Files
from tglo.train.engines import shards
from tglo.train.engines.shards import Fragment, Shards
from tglo.train.engines.whole import WEIGHT, Whole


class Zero:
    """Reads and writes the groups; DeepSpeed's `sharded` optimizer trains these weights at a stage from 1 to 3."""

    def __init__(self, sharded: Any, stage: int, trained: Mapping[str, nn.Parameter]) -> None:
        self.sharded = sharded
        self.stage = stage
        self.trained = trained

    @property
    def groups(self) -> list[Tensor]:
        """The flat float32 groups, padded; in host memory where they are offloaded."""
        if self.stage == 3:
            return list(self.sharded.fp32_partitioned_groups_flat)
        return list(self.sharded.single_partition_of_fp32_groups)

    def fragments(self) -> dict[str, Fragment]:
        """Return where the parts of weights lie, by name."""
        names = {id(parameter): name for name, parameter in self.trained.items()}
        found = _of_partitions(self.sharded) if self.stage == 3 else _of_slices(self.sharded)
        return {names[key]: fragment for key, fragment in found.items()}

    def wanted(self) -> dict[str, Tensor]:
        """Return the float32 weights whole, without values."""
        shapes = self._shapes().items()
        return {name: torch.empty(shape, device="meta") for name, shape in shapes}

    def whole(self, groups: list[Tensor], device: torch.device) -> dict[str, Tensor]:
        """Put every rank's groups (float32, of the form of `groups`) together by the weights' names, in rank 0's host
        memory; nothing elsewhere. Collective, one weight after another on `device`.
        """
        found, fragments = {}, self.fragments()
        for name, shape in self._shapes().items():
            full = torch.zeros(shape, device=device)
            if fragment := fragments.get(name):
                place = full.view(-1).narrow(0, fragment.start, fragment.size)
                place.copy_(_part(groups, fragment))
            # Bits, of which all ranks but one have zeros: exact, with the sign of zero.
            processes.sum_on_main(full.view(torch.int32))
            if processes.rank() == 0:
                found[name] = full.cpu()
        return found

    def fill(self, groups: list[Tensor], weights: Mapping[str, Tensor]) -> None:
        """Copy this rank's parts of whole weights into tensors of the form of `groups`."""
        for name, fragment in self.fragments().items():
            whole = weights[name].reshape(-1)
            _part(groups, fragment).copy_(whole.narrow(0, fragment.start, fragment.size))

    def files(self) -> Files:
        """Return this rank's files of a checkpoint, not copied."""
        inner, groups = self._inner(), self.groups
        states = [inner.state.get(group, {}) for group in groups]
        rank, ranks = processes.rank(), processes.world_size()
        return shards.files(rank, ranks, self._shapes(), self.fragments(), groups, states)

    def check_groups(self, source: Shards) -> None:
        """Raise DamagedFile unless this rank's groups there, of the same layout, are as large as here."""
        source.check_groups(processes.rank(), self.groups)

    @torch.no_grad()
    def load(self, source: Whole | Shards, keys: tuple[str, ...], weights_only: bool) -> None:
        """Take this rank's part of weights and states; collective. keys: of states by element; with none, take the
        groups' states as they are, from Shards of the same layout.
        """
        if self.stage == 3:
            self.sharded.checkpoint_event_prologue()
        groups, fragments = self.groups, self.fragments()
        for name, fragment in fragments.items():
            source.fill(_part(groups, fragment), name, WEIGHT, fragment.start)
        if not weights_only:
            found = {n: self._state(source, n, fragments, keys) for n in range(len(groups))}
            self._restore({number: state for number, state in found.items() if state})
        self._follow()

    def _state(
        self,
        source: Whole | Shards,
        group: int,
        fragments: dict[str, Fragment],
        keys: tuple[str, ...],
    ) -> dict[str, Any]:
        if not keys:
            assert isinstance(source, Shards)
            return source.group_state(processes.rank(), group)
        mine = {name: fragment for name, fragment in fragments.items() if fragment.group == group}
        return _elementwise(source, self.groups[group], mine, keys)

    def _restore(self, states: dict[int, dict[str, Any]]) -> None:
        inner = self._inner()
        if self.stage == 3:  # which takes them out of the optimizer's groups between updates
            self.sharded._set_fp32_optimizer_param_groups()
        groups = inner.state_dict()["param_groups"]
        inner.load_state_dict({"state": states, "param_groups": groups})
        if self.stage == 3:
            self.sharded._clear_fp32_optimizer_param_groups()

    def _follow(self) -> None:
        """Let the weights that the model computes with follow from the float32 ones."""
        sharded = self.sharded
        if self.stage < 3:
            sharded.update_lp_params()
            return
        for number in range(len(self.groups)):
            sharded._reassign_or_swap_out_partitioned_parameters(number)
        if sharded.persistent_parameters:
            sharded.persistent_parameters[0].partition(sharded.persistent_parameters)
        sharded.checkpoint_event_epilogue()

    def _inner(self) -> Optimizer:
        inner: Optimizer = self.sharded.optimizer
        return inner

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in self.trained.items()}


def _of_slices(sharded: Any) -> dict[int, Fragment]:
    """Return the fragments under ZeRO 1 and 2 by a parameter's id: a rank has a slice of all weights in a row."""
    return {
        id(parameter): Fragment(
            number,
            mapping.hp_fragment_address.start,
            mapping.lp_fragment_address.start,
            mapping.hp_fragment_address.numel,
        )
        for number, group in enumerate(sharded.bit16_groups)
        for parameter in group
        if (mapping := parameter._hp_mapping) is not None
    }


def _of_partitions(sharded: Any) -> dict[int, Fragment]:
    """Return them under ZeRO 3: a rank has a slice of each weight."""
    found = {}
    for number, group in enumerate(sharded.fp16_groups):
        offset = 0
        for parameter in group:
            size = parameter.partition_numel()
            start = processes.rank() * size
            count = min(size, parameter.ds_numel - start)  # the rest is padding
            if count > 0:
                found[id(parameter)] = Fragment(number, offset, start, count)
            offset += size
    return found


def _elementwise(
    source: Whole | Shards, group: Tensor, mine: dict[str, Fragment], keys: tuple[str, ...]
) -> dict[str, Any]:
    """Return a group's state of these parts; a weight that had none begins with zeros."""
    numbers: dict[str, float] = {}
    for name in mine:
        for key, value in source.numbers(name).items():
            numbers[key] = max(value, numbers.get(key, 0.0))
    if not numbers:
        return {}
    state: dict[str, Any] = {key: torch.zeros_like(group) for key in keys}
    for name, fragment in mine.items():
        for key in keys:
            target = state[key].narrow(0, fragment.offset, fragment.size)
            source.fill(target, name, key, fragment.start)
    return state | {key: torch.tensor(value) for key, value in numbers.items()}


def _part(groups: list[Tensor], fragment: Fragment) -> Tensor:
    return groups[fragment.group].data.narrow(0, fragment.offset, fragment.size)
