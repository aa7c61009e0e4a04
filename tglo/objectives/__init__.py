"""Training objectives by name, each a few lines over the fused log-ratio; docs/objectives.md."""

from __future__ import annotations

from tglo.objectives.base import Given, Objective, Settings
from tglo.objectives.pairs import DPO, DSPO
from tglo.objectives.scored import BCO, CSFT, KTO, QRPO, SFT, TGO

__all__ = ["OBJECTIVES", "Given", "Objective", "Settings"]

OBJECTIVES: dict[str, type[Objective]] = {
    "tgo": TGO,
    "sft": SFT,
    "csft": CSFT,
    "kto": KTO,
    "bco": BCO,
    "qrpo": QRPO,
    "dpo": DPO,
    "dspo": DSPO,
}
