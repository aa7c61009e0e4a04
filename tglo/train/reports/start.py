"""What a run is, in a block of lines before its first step."""

from __future__ import annotations

import logging
import resource

import torch

from tglo.train import processes
from tglo.train.config import reference_mode
from tglo.train.run import Run

log = logging.getLogger("tglo")
_REFERENCES = {
    "none": "none: this objective does without",
    "cached": "cached errors: no second model",
    "adapter-off": "the model with its LoRA switched off",
    "copy": "a frozen copy of the model",
}


def report_start(run: Run, step: int) -> None:
    """Log the block on rank 0. step: updates that are done already."""
    if processes.rank() == 0:
        rows = describe(run, step)
        width = max(map(len, rows))
        for name, text in rows.items():
            log.info("%s  %s", name.ljust(width), text)


def describe(run: Run, step: int) -> dict[str, str]:
    """Return the block's lines by name."""
    config, optimizer = run.config, run.config.optimizer
    count, total = processes.world_size(), optimizer.steps
    batch = optimizer.micro_batch * optimizer.accumulation * count
    samples = len(run.batches.samples.ids)
    begun = f", {step:,} of them done" if step else ""
    return {
        "device": _device(run, count),
        "samples": f"{samples:,}; an epoch is {_counted(run.steps_per_epoch, 'step')}",
        "steps": f"{total:,} ({run.epoch(total):.3g} epochs){begun}",
        "global batch": f"{batch:,} = micro batch {optimizer.micro_batch} x accumulation "
        f"{optimizer.accumulation} x {_counted(count, 'process')}",
        "trained": _trained(run),
        "reference": _REFERENCES[reference_mode(config)],
        "memory": _memory(run.engine.device),
        "checkpoints": f"{run.checkpoints.root}, every {_counted(config.output.save_every, 'step')}",
    }


def _device(run: Run, count: int) -> str:
    device, engine = run.engine.device, run.config.engine
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    how = f"DeepSpeed, ZeRO {engine.zero_stage}" if run.engine.name != "plain" else "plain PyTorch"
    return f"{device}{name}, {_counted(count, 'process')}, {how}, {engine.precision}"


def _trained(run: Run) -> str:
    parameters = list(run.family.denoiser.parameters())
    trained = sum(_size(p) for p in parameters if p.requires_grad)
    every = sum(map(_size, parameters))
    model = run.config.model
    what = f"LoRA of rank {model.lora_rank}" if model.train == "lora" else "all weights"
    return f"{what}: {trained:,} of {every:,} parameters"


def _size(parameter: torch.nn.Parameter) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))  # ZeRO 3 leaves a rank none


def _memory(device: torch.device) -> str:
    """Tell what is taken before the first step, which adds activations and the optimizer's state."""
    if device.type == "cuda":
        taken, total = torch.cuda.memory_allocated(device), torch.cuda.mem_get_info(device)[1]
        return f"{taken / 2**30:.1f} of the GPU's {total / 2**30:.1f} GiB before the first step"
    taken = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{taken / 2**30:.1f} GiB of this process before the first step"


def _counted(number: int, word: str) -> str:
    plural = {"process": "processes"}.get(word, f"{word}s")
    return f"{number:,} {word if number == 1 else plural}"
