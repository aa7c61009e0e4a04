"""Where a model's encoders, its VAE and text encoders, are while they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch


class Encoders:
    """VAE and text encoders by the names of their folders, all in memory; None for one left on disk."""

    def __init__(self, modules: Mapping[str, Any]) -> None:
        self._modules = dict(modules)

    def __getitem__(self, name: str) -> Any:
        return self._modules[name]

    def at_hand(self, name: str) -> bool:
        """Say whether an encoder can be used without being loaded or moved."""
        return True

    def present(self) -> dict[str, Any]:
        """Return those that are in memory, by name."""
        return {name: module for name, module in self._modules.items() if module is not None}


class EncodersInTurn(Encoders):
    """Each is loaded when it is used, and the one before it is freed: at most one is in memory."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        super().__init__({})
        self._load = load

    def __getitem__(self, name: str) -> Any:
        if name not in self._modules:
            self._modules.clear()
            if torch.cuda.is_available():  # else the next one may find the memory in pieces
                torch.cuda.empty_cache()
            self._modules[name] = self._load(name)
        return self._modules[name]

    def at_hand(self, name: str) -> bool:
        """See Encoders.at_hand."""
        return name in self._modules


class TextEncoders(Sequence[Any]):
    """A model's text encoders in the pipeline's order."""

    def __init__(self, encoders: Encoders, names: Sequence[str]) -> None:
        self._encoders, self._names = encoders, names

    def __getitem__(self, number: Any) -> Any:
        return self._encoders[self._names[number]]

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Any]:
        return (self._encoders[name] for name in self._names)
