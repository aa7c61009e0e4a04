"""The planner's options: a model, machines, and how to train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tglo.plan.limits import zero_problem
from tglo.settings import (
    COUNT,
    SAMPLING,
    SIDE,
    BaseWeights,
    Limit,
    LongPrompts,
    ModelOptions,
    check_limits,
)

Checkpointing = Literal["none", "selective", "full"]
CHECKPOINTING: tuple[Checkpointing, ...] = ("none", "selective", "full")
LIMITS = {
    **dict.fromkeys(("gpus", "nodes", "micro_batch", "accumulation", "draws", "prompts"), COUNT),
    "lora_rank": Limit(1, 4096),
    **dict.fromkeys(("resolution", "height", "width"), SIDE),
    "frames": SAMPLING["frames"],
    **dict.fromkeys(("gpu_memory", "epochs", "compute"), Limit(0, 1e9, above=True)),
    **dict.fromkeys(("interconnect", "network"), Limit(0, 1e9, above=True)),
}


@dataclass(frozen=True)
class Options:
    """A run to plan. GB is 1e9 bytes."""

    model: str = "sdxl"
    """A published model by its short name (sdxl, flux-dev, sd35-medium, ...), or a local diffusers folder or
    .safetensors file."""
    model_config: str | None = None
    """As model.config, for a .safetensors file of another architecture than the published ones."""
    long_prompts: LongPrompts = "cut"
    """As model.long_prompts."""
    prompt_chunks: int = 3
    """As model.prompt_chunks."""
    gpus: int = 1
    """GPUs in each node."""
    nodes: int = 1
    """Nodes (machines)."""
    gpu_memory: float = 80.0
    """Memory of a GPU in GB."""
    train: Literal["full", "lora"] = "full"
    """All weights, or a LoRA on the attention layers."""
    lora_rank: int = 16
    """Rank of the LoRA matrices."""
    base_weights: BaseWeights = "default"
    """How the frozen weights below a LoRA are kept, as model.base_weights."""
    resolution: int | None = None
    """Side of a square image in pixels; the model's own size by default."""
    height: int | None = None
    """Pixels; the model's own by default."""
    width: int | None = None
    """Pixels; the model's own by default."""
    frames: int | None = None
    """Of a video's clip; the model's own number by default."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """As engine.precision."""
    reference: Literal["cached", "copy", "adapter-off", "none"] = "cached"
    """As objective.reference; none is for supervised fine-tuning."""
    optimizer: Literal["adamw", "adamw8bit", "adafactor"] = "adamw"
    """As optimizer.name."""
    ema: bool = False
    """Keep a moving average of the trained weights (optimizer.ema_decay)."""
    micro_batch: int = 4
    """Samples per GPU and forward pass."""
    accumulation: int = 1
    """Forward passes per update."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in host memory (ZeRO 1 to 3)."""
    offload_parameters: bool = False
    """Keep the weights in host memory (ZeRO 3)."""
    draws: int = 8
    """Draws per sample of a cached reference (K)."""
    epochs: float = 10.0
    """Passes over the data (E), over which a cached reference's cost is spread."""
    prompts: int = 10_000
    """Different prompts of the data, for the size of their embeddings on the disk."""
    compute: float = 300.0
    """Arithmetic that a GPU sustains in TFLOP/s; not its peak."""
    interconnect: float = 300.0
    """Bandwidth between the GPUs of a node in GB/s per GPU and direction."""
    network: float = 50.0
    """Bandwidth between nodes in GB/s per node and direction."""
    zero_stage: Literal["plain", 0, 1, 2, 3] | None = None
    """As engine.zero_stage, or the plain engine: said beside the best, with gradient_checkpointing."""
    gradient_checkpointing: Checkpointing = "none"
    """As model.gradient_checkpointing; counts beside zero_stage alone: all ways are tried."""

    @property
    def loading(self) -> ModelOptions:
        """How the model is found, and its prompts encoded."""
        return ModelOptions(self.model_config, None, self.long_prompts, self.prompt_chunks)

    @property
    def processes(self) -> int:
        """The number of GPUs in all."""
        return self.gpus * self.nodes

    def check(self) -> None:
        """Raise ValueError for the first value that cannot be planned for."""
        check_limits({name: getattr(self, name) for name in LIMITS}, LIMITS)
        if self.resolution is not None and (self.height is not None or self.width is not None):
            raise ValueError(
                f"resolution {self.resolution} is a square's side, and height {self.height} and width "
                f"{self.width} are given too; use either"
            )
        problem = self.problem()
        if problem:
            raise ValueError(problem)

    def problem(self) -> str:
        """Return why training would refuse these settings together, or ""."""
        if self.reference == "adapter-off" and self.train == "full":
            return "reference adapter-off needs train lora; else use cached or copy"
        if self.base_weights != "default" and self.train == "full":
            return f"base_weights {self.base_weights} needs train lora; else leave it out"
        if self.base_weights == "half" and self.precision == "fp32":
            return "base_weights half needs precision bf16 or fp16; else leave it out"
        least = 3 if self.offloads else 0 if self.processes > 1 else None
        return self.problem_at(least) or ""

    @property
    def offloads(self) -> bool:
        """Something is kept in host memory, so that even one process needs ZeRO."""
        return self.offload_optimizer or self.offload_parameters

    def problem_at(self, stage: int | None) -> str | None:
        """Say why training would refuse a ZeRO stage (None: the plain engine); None if it would not."""
        return zero_problem(
            self.optimizer,
            stage,
            precision=self.precision,
            offload_optimizer=self.offload_optimizer,
            offload_parameters=self.offload_parameters,
            base_weights=self.base_weights,
        )
