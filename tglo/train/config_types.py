"""The configuration's type where a run names objectives of other packages: their constants are keys of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, Literal

from tglo.objectives import OBJECTIVES
from tglo.plugins import PluginError
from tglo.train.config import ObjectiveConfig, TrainConfig


def config_type(data: Mapping[str, Any]) -> type[TrainConfig]:
    """Return the type of a configuration in nested plain data: TrainConfig, or a subclass of it whose
    [objective] knows the other packages' objectives that the data name.

    PluginError for one of them that cannot be used.
    """
    objective = data.get("objective")
    if not isinstance(objective, Mapping):
        return TrainConfig
    tables = {key for key, value in objective.items() if isinstance(value, Mapping)}
    name = objective.get("name")
    strange = tables - {f.name for f in fields(ObjectiveConfig)}
    strange |= {name} if isinstance(name, str) else set()
    strange -= set(OBJECTIVES)
    return TrainConfig if not strange else _with(tuple(sorted(strange)))


def objective_config(name: str, **values: Any) -> ObjectiveConfig:
    """Return the [objective] of a run, with the constants of an objective of another package:

        objective_config("robust", beta=0.5, robust=RobustConstants(delta=1.0))

    ValueError if there is no objective of that name.
    """
    if OBJECTIVES.find(name) is None:
        raise ValueError(
            f"there is no objective {name!r}; known are {', '.join(OBJECTIVES.known())}"
        )
    kind = ObjectiveConfig if name in OBJECTIVES else _objective_type((name,))
    return kind(name=name, **values)


@functools.cache
def _with(names: tuple[str, ...]) -> type[TrainConfig]:
    objective = _objective_type(names)
    return make_dataclass(
        "TrainConfig",
        [("objective", objective, field(default_factory=objective))],
        bases=(TrainConfig,),
        frozen=True,
        namespace={"__module__": __name__, "__doc__": TrainConfig.__doc__},
    )


@functools.cache
def _objective_type(names: tuple[str, ...]) -> type[ObjectiveConfig]:
    """Return ObjectiveConfig with constants of those of the names that another package has."""
    kinds = {name: found for name in names if (found := OBJECTIVES.find(name)) is not None}
    keys = {f.name for f in fields(ObjectiveConfig)}
    if taken := sorted(keys & kinds.keys()):
        raise PluginError(f"objective {taken[0]!r} has the name of a key of [objective]; rename it")
    known: Any = str if TYPE_CHECKING else Literal[tuple(OBJECTIVES.known())]
    constants = [
        (name, kind.constants_type, field(default_factory=kind.constants_type))
        for name, kind in kinds.items()
        if fields(kind.constants_type)
    ]
    return make_dataclass(
        "ObjectiveConfig",
        [("name", known, field(default="tgo")), *constants],
        bases=(ObjectiveConfig,),
        frozen=True,
        namespace={"__module__": __name__, "__doc__": ObjectiveConfig.__doc__},
    )
