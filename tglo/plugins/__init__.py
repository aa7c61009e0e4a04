"""Families, objectives, rewards and commands of other packages, which their entry points name.

Only packages that are installed are asked, and only for a name that tglo has not itself, or for a list;
nothing in a file can name a class or a module to import. docs/plugins.md shows a package.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import metadata
from typing import Any, TypeVar

log = logging.getLogger("tglo")

NOUNS = {
    "tglo.families": "family",
    "tglo.objectives": "objective",
    "tglo.rewards": "reward",
    "tglo.commands": "command",
}
"""Group of entry points -> what one of it is."""

groups: dict[str, Plugins] = {}
"""Those groups whose registry has been imported."""

T = TypeVar("T")
Check = Callable[[str, Any], str]
"""(name, what was loaded) -> why it cannot be used, or ""."""


class PluginError(ImportError):
    """Something of another package cannot be used; says what, whose, and why."""


@functools.cache
def offered(group: str) -> Mapping[str, tuple[metadata.EntryPoint, ...]]:
    """Return the entry points of a group by name, those of all installed packages; imports none of them."""
    found: dict[str, tuple[metadata.EntryPoint, ...]] = {}
    for entry in metadata.entry_points(group=group):
        if entry not in found.get(entry.name, ()):
            found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


class Plugins:
    """What other packages offer in a group, beside the names that tglo has taken itself."""

    def __init__(self, group: str, taken: Callable[[], Collection[str]], check: Check) -> None:
        self.group, self.noun = group, NOUNS[group]
        self._taken, self._check = taken, check
        self._loaded: dict[str, Any] = {}
        self._refused: set[str] = set()
        groups[group] = self

    def names(self) -> list[str]:
        """Return what can be asked for. A name that tglo has itself is refused, which is said once."""
        offers, taken = offered(self.group), self._taken()
        for name in sorted(offers.keys() & set(taken) - self._refused):
            self._refused.add(name)
            log.warning("%s; the rest works", self.clash(name))
        return sorted(offers.keys() - set(taken))

    def clash(self, name: str) -> str:
        """Say that a name is tglo's own."""
        return (
            f"{self.noun} {name!r} of package {_packages(offered(self.group)[name])} is refused: tglo has one "
            "of that name; the package has to give it another"
        )

    def find(self, name: str) -> Any | None:
        """Load what a package offers by this name; None if there is none. PluginError if it cannot be used."""
        if name not in self._loaded:
            if name not in self.names():
                return None
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def problem(self, name: str) -> str:
        """Say what is wrong with an offer, or ""; it is imported for that."""
        if name in self._taken():
            return self.clash(name)
        try:
            self.find(name)
        except PluginError as error:
            return str(error)
        return ""

    def working(self) -> Iterator[tuple[str, Any]]:
        """Load all offers, and yield them by name; what cannot be used is named and left out."""
        for name in self.names():
            if found := self.problem(name):
                log.warning("%s; the rest works", found)
            else:
                yield name, self.find(name)

    def _load(self, name: str) -> Any:
        entries = offered(self.group)[name]
        whose = f"{self.noun} {name!r} of package {_packages(entries)}"
        if len(entries) > 1:
            raise PluginError(f"{whose} is offered more than once; uninstall all but one of them")
        try:
            found = entries[0].load()
        except Exception as error:  # another package's code
            raise PluginError(
                f"{whose} cannot be imported: {type(error).__name__}: {error}; mend or uninstall it"
            ) from error
        if wrong := self._check(name, found):
            raise PluginError(f"{whose} cannot be used: {wrong}")
        return found


class Registry(dict[str, T]):
    """tglo's own entries of a group by name; another name is asked of `plugins`, KeyError if nobody has it."""

    def __init__(self, group: str, own: Mapping[str, T], check: Check) -> None:
        super().__init__(own)
        self.plugins = Plugins(group, self.keys, check)

    def find(self, name: str) -> T | None:
        """Return the entry of a name, tglo's own or another package's, or None."""
        return self[name] if name in self else self.plugins.find(name)

    def __missing__(self, name: str) -> T:
        found = self.plugins.find(name)
        if found is None:
            raise KeyError(name)
        return found

    def known(self) -> list[str]:
        """Return all names, tglo's own first."""
        return [*self, *self.plugins.names()]


def subclass_of(kind: type) -> Check:
    """Return the check that something is a subclass of `kind`."""

    def check(_: str, found: Any) -> str:
        right = isinstance(found, type) and issubclass(found, kind)
        return "" if right else f"{found!r} is no subclass of {kind.__module__}.{kind.__name__}"

    return check


def can_be_called(_: str, found: Any) -> str:
    """Check that something is a function or a class."""
    return "" if callable(found) else f"{found!r} cannot be called"


def _packages(entries: Collection[metadata.EntryPoint]) -> str:
    return " and ".join(entry.dist.name if entry.dist else "?" for entry in entries)
