"""Weights that wait in host memory: on the device is the part in use, or only the blocks of it that are next."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.hooks import apply_group_offloading
from torch import nn

from tglo.models.encoders import Encoders, EncodersInTurn
from tglo.models.families.base import Family
from tglo.settings import Offload


class Place:
    """A device with room for one part."""

    def __init__(self, device: torch.device, home: str) -> None:
        self._device, self._home = device, home
        self._here: Any = None

    def take(self, part: Any) -> None:
        """Have this part on the device, and the one before it back at home; None: none."""
        if part is not self._here:
            if self._here is not None:
                self._here.to(self._home)
            self._here = None if part is None else part.to(self._device)


class OffloadedEncoders(Encoders):
    """Each is on the device from its use to that of another part; those that go by blocks never as a whole."""

    def __init__(self, encoders: Encoders, place: Place, by_blocks: set[str]) -> None:
        super().__init__(encoders.present())
        self._place, self._by_blocks = place, by_blocks

    def __getitem__(self, name: str) -> Any:
        encoder = super().__getitem__(name)
        self._place.take(None if name in self._by_blocks else encoder)
        return encoder


def offload(
    family: Family, how: Offload, device: torch.device | str, *, home: str = "cpu"
) -> Family:
    """Let a loaded family on the CPU, with its LoRA, compute on the device; how: "model" or "blocks".

    home: where weights wait. The denoiser's LoRA, dtype and layout must be as they shall be.
    """
    device = torch.device(device)
    place, streamed = Place(device, home), set[str]()
    if how == "blocks":
        streamed = {part.encoder for part in family.text_parts}
        for encoder in family.text_encoders:
            _by_blocks(encoder, device, "leaf_level")
        _by_blocks(family.denoiser, device, "block_level")
    whole = how == "model"
    family.denoiser.register_forward_pre_hook(
        lambda module, _: place.take(module if whole else None)
    )
    family.encoders = OffloadedEncoders(family.encoders, place, streamed)
    family.device, family.schedule = device, family.schedule.to(device)
    return family


def encode_by_blocks(family: Family) -> Family:
    """Let the text encoders of a family that was loaded for encoding alone go through the device layer by layer."""

    def load(name: str) -> Any:
        encoder = family.read_encoder(name)
        if name == family.vae_part:
            return encoder.to(family.device)
        _by_blocks(encoder, family.device, "leaf_level")
        return encoder

    family.encoders = EncodersInTurn(load)
    return family


def _by_blocks(module: nn.Module, device: torch.device, groups: str) -> None:
    """Give a module diffusers' group offloading: blocks of the top level together, or each leaf by itself."""
    apply_group_offloading(
        module,
        onload_device=device,
        offload_type=groups,
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",  # the next group is copied while this one computes
    )
