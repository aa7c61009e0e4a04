"""The contenders, a line each, and the changes of the ablation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.step.ours import Ours, Overrides
from benchmarks.step.peers import Peer

Contender = Peer | Ours

PEERS = {"full": "Diffusion-DPO's step", "lora": "Diffusion-DPO's step, LoRA"}
"""The contenders that ratios are taken to at the same batch, for full training and for LoRA."""
FULL = "tglo cached"
"""The configuration of tglo where the ablation starts."""

COMPILED = "tglo cached, compiled"

CACHED: Overrides = {"objective": {"reference": "cached"}}

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        # By importance: a time limit cuts the list from its end.
        Peer(PEERS["full"], online=True, loss="model", checkpointing=True),
        Ours(FULL, overrides=CACHED, reference=False),
        Ours(COMPILED, overrides={**CACHED, "engine": {"compile": "blocks"}}, reference=False),
        Peer("diffusers + accelerate"),
        Ours("tglo copy"),
        Peer("diffusers + accelerate, checkpointing", checkpointing=True),
        Peer(PEERS["lora"], train="lora", online=True, loss="model", checkpointing=True),
        Ours("tglo cached, LoRA", train="lora", overrides=CACHED, reference=False),
        Peer("diffusers + accelerate, LoRA", train="lora"),
        Ours("tglo adapter-off, LoRA", train="lora"),
    )
}


def _without(name: str, *, online: bool = False, **changed: Mapping[str, Any]) -> Ours:
    """Return FULL with further overrides, by section."""
    overrides = {**CACHED, **changed}
    for section in CACHED.keys() & changed.keys():
        overrides[section] = {**CACHED[section], **changed[section]}
    return Ours(f"{FULL}, {name}", overrides=overrides, reference=False, online=online)


ABLATIONS: dict[str, Contender] = {
    "cached reference -> copy": CONTENDERS["tglo copy"],
    "cached latents and embeddings -> encoded in the step": _without("encoding", online=True),
    "no checkpointing -> selective": _without(
        "selective checkpointing", model={"gradient_checkpointing": "selective"}
    ),
    "no checkpointing -> full": _without(
        "full checkpointing", model={"gradient_checkpointing": "full"}
    ),
    "fused loss -> plain PyTorch": _without("plain loss", objective={"backend": "reference"}),
}
"""A change to FULL -> FULL with that change alone."""
GPU_ABLATIONS: dict[str, Contender] = {
    "channels_last -> contiguous": _without("contiguous", engine={"channels_last": "off"}),
    "not compiled -> blocks compiled": CONTENDERS[COMPILED],
}
"""Further ones: on the CPU channels_last is off, and compiling takes minutes."""
