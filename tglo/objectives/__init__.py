"""Training objectives by name, a file each; docs/objectives.md."""

from __future__ import annotations

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

OBJECTIVES: dict[str, type[Objective]] = {
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
