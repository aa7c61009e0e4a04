"""Who is measured: a line for each contender, and what the ablation switches off."""

from __future__ import annotations

from benchmarks.step.ours import Ours
from benchmarks.step.peers import Peer

Contender = Peer | Ours

PEER = "Diffusion-DPO's step"
"""What ratios are taken to, at the same batch and where all weights are trained."""
FULL = "tglo copy"
"""tglo's configuration with everything that makes it fast: where the ablation starts."""

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        # By importance: a time limit cuts the list from its end.
        Peer(PEER, online=True, loss="model", checkpointing=True),
        Ours("tglo copy"),
        Peer("diffusers + accelerate"),
        Peer("diffusers + accelerate, checkpointing", checkpointing=True),
        Ours("tglo adapter-off, LoRA", train="lora"),
        Peer("diffusers + accelerate, LoRA", train="lora"),
    )
}

ABLATIONS: dict[str, Contender] = {
    "no checkpointing -> checkpointing": Ours(
        "tglo copy, checkpointing", overrides={"model": {"gradient_checkpointing": True}}
    ),
    "cached latents and embeddings -> encoded in the step": Ours(
        "tglo copy, encoding", online=True
    ),
    "fused loss -> plain PyTorch": Ours(
        "tglo copy, plain loss", overrides={"objective": {"backend": "reference"}}
    ),
}
"""What is switched off in FULL -> FULL without it."""
