"""Training objectives by name, a file each; docs/objectives.md."""

from __future__ import annotations

from typing import Any

from tglo.objectives.base import Objective, Settings
from tglo.objectives.bco import BCO
from tglo.objectives.csft import CSFT
from tglo.objectives.dpo import DPO
from tglo.objectives.dspo import DSPO
from tglo.objectives.kto import KTO
from tglo.objectives.lair import LAIR
from tglo.objectives.micro_batch import Labels, MicroBatch, mean_loss, statistics
from tglo.objectives.qrpo import QRPO
from tglo.objectives.sdpo import SDPO
from tglo.objectives.sft import SFT
from tglo.objectives.tgo import TGO
from tglo.plugins import Registry, subclass_of

__all__ = [
    "OBJECTIVES",
    "Given",
    "Labels",
    "MicroBatch",
    "Objective",
    "Settings",
    "mean_loss",
    "statistics",
]

Given = MicroBatch
"""The former name."""

_is_objective = subclass_of(Objective)


def _check(name: str, found: Any) -> str:
    """Say why another package's objective cannot be one: its name is a key of a run's file."""
    if not name.isidentifier():
        return (
            f"its name is not one of letters, digits and _, as the key [objective.{name}] has to be"
        )
    return _is_objective(name, found)


_OWN: dict[str, type[Objective]] = {
    "tgo": TGO,
    "sft": SFT,
    "csft": CSFT,
    "kto": KTO,
    "bco": BCO,
    "qrpo": QRPO,
    "dpo": DPO,
    "sdpo": SDPO,
    "dspo": DSPO,
    "lair": LAIR,
}
OBJECTIVES: Registry[type[Objective]] = Registry("tglo.objectives", _OWN, _check)
"""By name, with those of other packages (tglo.plugins)."""
