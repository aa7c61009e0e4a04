"""The contenders, a line each, and the changes of the ablation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.step.ours import Ours, Overrides
from benchmarks.step.peers import Peer

Contender = Peer | Ours

PEERS = {"full": "Diffusion-DPO's step", "lora": "Diffusion-DPO's step, LoRA"}
"""The contenders that ratios are taken to at the same batch, for full training and for LoRA."""
FULL, LORA = "tglo cached", "tglo cached, LoRA"
"""The configurations of tglo where an ablation starts."""
COMPILED, COMPILED_LORA = f"{FULL}, compiled", f"{LORA}, compiled"

CACHED: Overrides = {"objective": {"reference": "cached"}}
_COMPILED: Overrides = {**CACHED, "engine": {"compile": "blocks"}}

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        # By importance: a time limit cuts the list from its end.
        Peer(PEERS["full"], online=True, loss="model", checkpointing=True),
        Ours(FULL, overrides=CACHED, reference=False),
        Ours(COMPILED, overrides=_COMPILED, reference=False),
        Peer("diffusers + accelerate"),
        Ours("tglo copy"),
        Peer("diffusers + accelerate, checkpointing", checkpointing=True),
        Peer(PEERS["lora"], train="lora", online=True, loss="model", checkpointing=True),
        Ours(LORA, train="lora", overrides=CACHED, reference=False),
        Peer("diffusers + accelerate, LoRA", train="lora"),
        Ours("tglo adapter-off, LoRA", train="lora"),
        Ours(COMPILED_LORA, train="lora", overrides=_COMPILED, reference=False),
    )
}


def _without(base: str, name: str, *, online: bool = False, **changed: Mapping[str, Any]) -> Ours:
    """Return FULL or LORA with further overrides, by section."""
    overrides = {**CACHED, **changed}
    for section in CACHED.keys() & changed.keys():
        overrides[section] = {**CACHED[section], **changed[section]}
    return Ours(
        f"{base}, {name}",
        train=CONTENDERS[base].train,
        overrides=overrides,
        reference=False,
        online=online,
    )


def _ablations(base: str, live: str, what: str) -> dict[str, Contender]:
    """Return the changes to a base; live: its reference predicts, which is `what`."""
    selective, full = ({"gradient_checkpointing": mode} for mode in ("selective", "full"))
    return {
        f"cached reference -> {what}": CONTENDERS[live],
        "cached latents and embeddings -> encoded in the step": _without(
            base, "encoding", online=True
        ),
        "no checkpointing -> selective": _without(base, "selective checkpointing", model=selective),
        "no checkpointing -> full": _without(base, "full checkpointing", model=full),
        "fused loss -> plain PyTorch": _without(
            base, "plain loss", objective={"backend": "reference"}
        ),
    }


ABLATIONS: dict[str, dict[str, Contender]] = {
    FULL: _ablations(FULL, "tglo copy", "copy"),
    LORA: _ablations(LORA, "tglo adapter-off, LoRA", "LoRA off"),
}
"""Where it starts -> a change -> that with this change alone."""
GPU_ABLATIONS: dict[str, dict[str, Contender]] = {
    FULL: {
        "channels_last -> contiguous": _without(
            FULL, "contiguous", engine={"channels_last": "off"}
        ),
        "not compiled -> blocks compiled": CONTENDERS[COMPILED],
    },
    LORA: {"not compiled -> blocks compiled": CONTENDERS[COMPILED_LORA]},
}
"""Further ones: on the CPU channels_last is off, and compiling takes minutes."""
