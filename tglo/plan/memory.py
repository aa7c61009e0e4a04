"""Bytes that a process holds on its GPU, for each ZeRO stage and without DeepSpeed.

Counted from DeepSpeed 0.19.8: runtime/zero/stage_1_and_2.py, runtime/zero/stage3.py,
runtime/fp16/unfused_optimizer.py (stage 0 in half precision) and its default bucket sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

from tglo.plan.options import Checkpointing, Options
from tglo.plan.profile import Profile, Sizes
from tglo.settings import QUANTIZED

GB = 1e9
WIDTH = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of an element."""
# DeepSpeed's defaults, in elements.
REDUCE_BUCKET = 500_000_000
LIVE_PARAMETERS = 1_000_000_000 + 50_000_000  # stage3_max_live_parameters and prefetched ones
SUB_GROUP = 1_000_000_000
# Assumed, not measured: CUDA context and libraries; and what the allocator loses to fragmentation.
CONTEXT = 2 * GB
FRAGMENTATION = 0.05
# 4-bit weights of bitsandbytes have a float32 scale for every block of 64.
NF4 = 1 / 2 + 4 / 64
# 8-bit AdamW: two moments of a byte, and a float32 scale of each for every block of 256 elements.
ADAMW8BIT = 2 * (1 + 4 / 256)


@dataclass(frozen=True)
class States:
    """Bytes of the model's states on one GPU, held from one update to the next."""

    weights: float
    gradients: float
    """Accumulated gradients, at their most: when the last backward of an update ends."""
    optimizer: float
    """Float32 master weights, where there are any, and moments."""
    host: float = 0.0
    """Bytes offloaded to host memory by this process."""

    @property
    def total(self) -> float:
        """All bytes on the GPU."""
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU: rank 0's, which without ZeRO alone keeps the moving average."""

    states: States
    extra: float
    """The reference's copy and the moving average."""
    working: float
    """The larger of: activations and communication buffers; what an update needs for a moment."""
    reserve: float
    """Assumed: CUDA context, libraries, fragmentation."""

    @property
    def total(self) -> float:
        """All bytes on the GPU."""
        return self.states.total + self.extra + self.working + self.reserve


def model_states(options: Options, sizes: Sizes, stage: int | None) -> States:
    """Return the model's states on one GPU. stage: DeepSpeed's, or None for the plain engine.

    The plain engine keeps float32 weights; in half precision autocast's copies of them are counted
    with the weights, though they live from the forward to the end of the backward only. Frozen ones may
    be kept otherwise (options.base_weights).
    """
    width, half = WIDTH[options.precision], options.precision != "fp32"
    trained, processes = sizes.trained, options.processes
    moments = _moments(sizes, options.optimizer, flat=bool(stage))
    if stage is None:
        full = 4 + 2 * half
        plain: float = full * sizes.all
        if options.base_weights != "default":
            plain = frozen_bytes(options, sizes) + full * trained
        return States(plain, 4 * trained, moments)
    weights: float = frozen_bytes(options, sizes) + width * trained
    gradients: float = width * trained
    # Stages 1 to 3 clone a float32 partition even of float32 weights.
    master = 4 * trained if half or stage else 0
    kept, host = float(master + moments), 0.0
    if stage:
        kept /= processes
    # Stage 1 reduces gradients in an update's last backward only; before it each rank keeps all.
    if stage >= 2 or (stage == 1 and options.accumulation == 1):
        gradients /= processes
    if stage == 3:
        weights = width * (sizes.all / processes + sizes.small)
    if options.offload_optimizer:
        host += kept + 4 * trained * (1 + options.ema) / processes
        kept = 0.0
        if stage >= 2:
            host, gradients = host + gradients, 0.0
    if options.offload_parameters:
        host += width * sizes.all / processes
        weights = width * sizes.small
    return States(weights, gradients, kept, host)


def frozen_bytes(options: Options, sizes: Sizes) -> float:
    """Return the bytes of the frozen weights, kept in the precision that is computed in or quantised."""
    width = WIDTH[options.precision]
    quantized: float = width * sizes.quantizable
    if options.base_weights == "int8":
        quantized = sizes.quantizable + width * sizes.quantizable_rows
    elif options.base_weights == "nf4":
        quantized = NF4 * sizes.quantizable
    return quantized + width * (sizes.frozen - sizes.quantizable)


def checkpoint(options: Options, sizes: Sizes) -> float:
    """Return the bytes of the plain engine's checkpoint, and of the copy in host memory that it is written from.

    Not counted: a reference that is renewed every epoch.
    """
    average = 4 * sizes.trained * options.ema
    return 4 * sizes.trained + _moments(sizes, options.optimizer, flat=False) + average


def memory(
    options: Options, found: Profile, stage: int | None, checkpointing: Checkpointing
) -> Memory:
    """Return all bytes on one GPU for a micro batch of ``options.micro_batch``."""
    sizes = found.sizes
    trained = sizes.trained * WIDTH[options.precision]
    base = frozen_bytes(options, sizes) if options.train == "lora" else trained
    copy = base * (options.reference == "copy")
    average: float = 4 * sizes.trained * options.ema
    if stage:  # each rank's is of its shard, and where that is
        average = 0 if options.offload_optimizer else average / options.processes
    extra = copy + average
    # Counted in half precision; of autocast's activations those of normalisations are float32.
    wide = 2 if stage is None or options.precision == "fp32" else 1
    activations = wide * found.cost[checkpointing].peak * options.micro_batch
    backward = activations + _buffers(options, sizes, stage)
    if options.base_weights in QUANTIZED:
        backward += WIDTH[options.precision] * sizes.largest
    working = max(backward, _update(options, sizes, stage))
    reserve = CONTEXT + FRAGMENTATION * options.gpu_memory * GB
    return Memory(model_states(options, sizes, stage), extra, working, reserve)


def _moments(sizes: Sizes, optimizer: str, flat: bool) -> float:
    """Return the bytes of the moments of all trained weights; flat: the optimizer sees one long vector."""
    if optimizer == "adamw":
        return 8 * sizes.trained
    if optimizer == "adamw8bit":
        return ADAMW8BIT * sizes.trained
    # Adafactor cannot factor the flat partitions of ZeRO 1 to 3.
    return 4 * (sizes.trained if flat else sizes.factored)


def _buffers(options: Options, sizes: Sizes, stage: int | None) -> float:
    """Return the bytes of communication buffers during the backward."""
    if not stage:
        return 0.0
    width = WIDTH[options.precision]
    # A bucket of fixed size, and a flat copy of what is in it while it is reduced.
    buffers = width * (REDUCE_BUCKET + min(REDUCE_BUCKET, sizes.trained))
    if stage == 3:
        buffers += width * min(sizes.all, LIVE_PARAMETERS)
    return float(buffers)


def _update(options: Options, sizes: Sizes, stage: int | None) -> float:
    """Return the bytes of float32 gradients (stage 0: and the all-reduce's buffer) that an update makes."""
    if stage is None or (options.offload_optimizer and stage):
        return 0.0
    if stage == 0:
        bucket = WIDTH[options.precision] * min(REDUCE_BUCKET, sizes.trained)
        return float(max(bucket, 4 * sizes.trained * (options.precision != "fp32")))
    partition = sizes.trained / options.processes
    return 4 * (min(partition, SUB_GROUP) if stage == 3 else partition)
