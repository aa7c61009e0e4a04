"""DeepSpeed ZeRO, by the same few methods as PlainEngine; the only file that imports DeepSpeed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tglo.console.extras import install
from tglo.devices import DTYPES
from tglo.files import reading
from tglo.models import quantization
from tglo.train import processes, stored
from tglo.train.config import TrainConfig
from tglo.train.config_checks import check_zero
from tglo.train.engines.deepspeed_files import check_tree, put_off, raise_if_full, read_shapes
from tglo.train.engines.optimizers import check_values, make_optimizer

TAG = "deepspeed"


def start(config: TrainConfig, device: torch.device) -> torch.device:
    """Join the process group of a launcher, or one of this process alone; returns its device."""
    _refuse(config)
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    for name, value in {**alone, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        os.environ.setdefault(name, value)
    deepspeed = _import_deepspeed()
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # The shared-memory operator is compiled for over a minute at first use and gains nothing here.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "gloo" if device.type == "cpu" else "nccl"
    # A rank may wait that long for another's checkpoint or export.
    minutes = float(os.environ.get("DEEPSPEED_TIMEOUT", "30"))
    processes.join(backend, device, timedelta(minutes=minutes))
    deepspeed.init_distributed(dist_backend=backend, verbose=False)
    return device


def _refuse(config: TrainConfig) -> None:
    """Raise ValueError for what only a launcher, which `config_checks.check` cannot know of, rules out."""
    if config.engine.cuda_graphs:
        raise ValueError(
            "engine.cuda_graphs goes with one process and engine.kind = plain only: DeepSpeed's "
            "gradient hooks are not in the graph; set cuda_graphs = false"
        )
    if config.engine.channels_last == "on":
        raise ValueError(
            "engine.channels_last is on, but DeepSpeed takes contiguous weights only; set it to auto "
            "or off, or use engine.kind = plain"
        )
    check_zero(config, config.engine.zero_stage)


class DeepSpeedEngine:
    """ZeRO 0 to 3 around one module."""

    name = "deepspeed"

    def __init__(self, config: TrainConfig, module: nn.Module, device: torch.device) -> None:
        deepspeed = _import_deepspeed()
        self.config = config.optimizer
        self.stage = config.engine.zero_stage
        self.device = device
        self.dtype = DTYPES[config.engine.precision]
        self.module = module
        self.trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
        # Quantised weights are made from the folder again, and no part of a checkpoint.
        self._leaves_out_frozen = quantization.kind_of(module) is not None
        self._bad = torch.zeros((), dtype=torch.bool, device=device)
        self._watch = config.engine.find_bad_gradients and self.dtype is not torch.float16
        optimizer = make_optimizer(self.config, self.trained.values())
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        self.model, self.optimizer, _, _ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            model_parameters=list(self.trained.values()),
            config=deepspeed_config(config),
            dist_init_required=False,
        )
        if self._watch:
            for parameter in self.trained.values():
                parameter.register_hook(self._look_at)

    def _look_at(self, gradient: Tensor) -> None:
        largest = torch.linalg.vector_norm(gradient.detach(), float("inf"))
        self._bad.logical_or_(torch.isfinite(largest).logical_not_())

    def autocast(self) -> AbstractContextManager[None]:
        """Context in which policy and reference predict: none, the weights have the dtype."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Accumulate (and, as the stage has it, reduce) one micro batch's gradient."""
        self.model.backward(loss)
        if not self.model.is_gradient_accumulation_boundary():
            self.model.step()  # counts the micro step; no update happens

    def gradient_is_bad(self) -> Tensor:
        """() bool: a gradient computed by this rank was not finite since the last update."""
        bad = self._bad.clone()
        self._bad.zero_()
        return bad

    def step(self, learning_rate: float) -> Tensor | float:
        """Update the weights; returns the gradient's norm before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        norm: Tensor | float = 0.0
        if not self.stage:  # DeepSpeed reports no norm without a ZeRO optimizer
            gradients = [p.grad for p in self.trained.values() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
        self.model.step()
        return self.model.get_global_grad_norm() or norm

    def master_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Trained weights by name, in float32; collective: every rank must exhaust it."""
        from deepspeed.utils import safe_get_full_fp32_param

        masters: dict[int, Tensor] = {}
        if not self.stage and self.dtype != torch.float32:
            # Without ZeRO, DeepSpeed's half-precision optimizer keeps them in lists.
            for half, full in zip(
                self.optimizer.fp16_groups, self.optimizer.fp32_groups, strict=True
            ):
                masters |= {id(h): f for h, f in zip(half, full, strict=True)}
        for name, parameter in self.trained.items():
            full = safe_get_full_fp32_param(parameter) if self.stage else masters.get(id(parameter))
            yield name, (parameter if full is None else full).detach().float()

    def state_dict(self) -> dict[str, Tensor]:
        """Trained weights by name, float32, on the CPU; collective, kept on every rank."""
        return {name: weight.cpu() for name, weight in self.master_weights()}

    def checkpoint_bytes(self) -> int:
        """Return about how many bytes all ranks write together."""
        parameters = self.trained.values() if self._leaves_out_frozen else self.module.parameters()
        weights = sum(_count(p) * p.element_size() for p in parameters)
        return weights + 12 * sum(map(_count, self.trained.values()))  # float32, two moments

    def save(self, folder: Path) -> None:
        """Write DeepSpeed's own checkpoint into `folder`; collective.

        What fails on this rank is raised at the end: DeepSpeed waits for every rank in between.
        """
        with put_off(self.model.checkpoint_engine, "save") as failed_files:
            with put_off(self.model, "_copy_recovery_script") as failed_scripts:
                self.model.save_checkpoint(
                    str(folder),
                    tag=TAG,
                    save_latest=False,
                    exclude_frozen_parameters=self._leaves_out_frozen,
                )
        for error in [*failed_files, *failed_scripts]:
            raise_if_full(folder, error)
            raise error

    def check(self, folder: Path) -> None:
        """Raise DamagedFile or OSError unless the files that this rank reads have the shapes of what it
        would write now.
        """
        path, found = read_shapes(self.model._get_ckpt_name(str(folder), TAG))
        module = self.model.module_state_dict(exclude_frozen_parameters=self._leaves_out_frozen)
        check_tree(path, "module", found.get("module"), module)
        if self.stage:
            path, found = read_shapes(self.model._get_zero_ckpt_name(str(folder), TAG))
            found = found.get("optimizer_state_dict", {})
            check_tree(path, "optimizer", found, self.optimizer.state_dict())
            # States have no names: their numbers are those of the flat groups of weights.
            name = "base_optimizer_state" if self.stage < 3 else "optimizer_state_dict"
            groups = (
                "single_partition_of_fp32_groups"
                if self.stage < 3
                else "fp32_partitioned_groups_flat"
            )
            weights = {f"group {n}": w for n, w in enumerate(getattr(self.optimizer, groups))}
            self._check_states(path, found.get(name), self.optimizer.optimizer, weights)
        elif self.dtype == torch.float32:
            self._check_states(path, found.get("optimizer"), self.optimizer, self.trained)

    def _check_states(
        self, path: Path, found: Any, optimizer: Any, weights: Mapping[str, Tensor]
    ) -> None:
        with reading(path, stored.KIND, stored.REMEDY):
            states = dict(found["state"])
            for number, (name, weight) in enumerate(weights.items()):
                if number in states:
                    check_values(optimizer, weight, states[number], path, name)
                elif self.stage:
                    raise ValueError(f"{name} has no optimizer state")

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote; `check` it first; collective. Only for folders of one's own runs."""
        path, _ = self.model.load_checkpoint(
            str(folder), tag=TAG, load_module_strict=not self._leaves_out_frozen
        )
        if path is None:
            raise ValueError(f"DeepSpeed found no checkpoint in {folder}; the folder is damaged")


def deepspeed_config(config: TrainConfig) -> dict[str, Any]:
    """DeepSpeed's JSON config for a run."""
    optimizer, engine = config.optimizer, config.engine
    pin = torch.cuda.is_available()
    zero: dict[str, Any] = {"stage": engine.zero_stage}
    if engine.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": pin}
    if engine.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": pin}
    return {
        "train_micro_batch_size_per_gpu": optimizer.micro_batch,
        "gradient_accumulation_steps": optimizer.accumulation,
        "gradient_clipping": optimizer.max_gradient_norm,
        "steps_per_print": 2**31,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": engine.precision == "bf16"},
        "fp16": {"enabled": engine.precision == "fp16", "initial_scale_power": 16},
    }


def _count(parameter: nn.Parameter) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))  # ZeRO 3 leaves a rank none


def _import_deepspeed() -> Any:
    try:
        import deepspeed
    except ImportError as error:
        raise ImportError(
            f"this run needs DeepSpeed, which is not installed: {install('train')}, "
            "or train in one process with engine.kind = plain"
        ) from error
    return deepspeed
