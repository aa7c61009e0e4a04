"""Settings by one name: what `recipe` stands for in a file or a flag, written out in the configuration."""

from __future__ import annotations

import copy
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from tglo.objectives import OBJECTIVES

if TYPE_CHECKING:
    from tglo.train.config import TrainConfig

RECIPES: dict[str, dict[str, Any]] = {
    "published": {
        "data.baseline": "percentile",
        "objective.confidence": 5.0,
        "objective.weight_normalisation": False,
        "objective.balance": False,
    },
    "tglo": {
        "data.baseline": "oracle",
        "objective.confidence": "inf",
        "objective.weight_normalisation": True,
        "objective.balance": False,
    },
}
"""Name -> key -> value; each names the same keys."""


def expanded(data: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of nested plain data with the keys of its recipe; those that it has itself stay."""
    return _with_keys(data, data.get("recipe"), replace=False)


def with_recipe(data: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a copy of nested plain data with another recipe, whose keys take the place of those in it."""
    return _with_keys({**data, "recipe": name}, name, replace=True)


def recipe_line(config: TrainConfig) -> str:
    """Say which recipe a run follows, and where it does not."""
    differing = [
        f"{key} = {attrgetter(key)(config)}"
        for key, value in RECIPES[config.recipe].items()
        if _applies(key, config.objective.name, config.data.threshold)
        and str(attrgetter(key)(config)) != str(value)
    ]
    if config.data.threshold is not None:
        differing.append(f"threshold from {config.data.threshold}")
    return f"recipe {config.recipe}" + (f", but {', '.join(differing)}" if differing else "")


def _with_keys(data: dict[str, Any], name: object, *, replace: bool) -> dict[str, Any]:
    if not isinstance(name, str) or name not in RECIPES:
        return data  # reading the configuration says so
    data = copy.deepcopy(data)
    tables = {section: data.setdefault(section, {}) for section in ("data", "objective")}
    if not all(isinstance(table, dict) for table in tables.values()):
        return data
    objective, threshold = tables["objective"].get("name", "tgo"), tables["data"].get("threshold")
    for key, value in RECIPES[name].items():
        section, last = key.split(".")
        if _applies(key, objective, threshold) and (replace or last not in tables[section]):
            tables[section][last] = value
    return data


def _applies(key: str, objective: object, threshold: object) -> bool:
    """Whether a recipe decides a key: weights of objectives that have some, the baseline unless a file has it."""
    if key == "data.baseline":
        return threshold is None
    kind = OBJECTIVES.find(objective) if isinstance(objective, str) else None
    return kind is not None and kind.weighs
