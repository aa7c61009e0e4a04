"""DeepSpeed ZeRO, by the same few methods as PlainEngine; the only file that imports DeepSpeed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tglo.console.extras import install
from tglo.devices import DTYPES
from tglo.models import quantization
from tglo.train import meeting_place, processes
from tglo.train.config import TrainConfig
from tglo.train.config_checks import check_zero
from tglo.train.contents import Files, write
from tglo.train.engines import deepspeed_files, loss_scale, whole
from tglo.train.engines.layouts import in_deepspeeds_format, open_stored
from tglo.train.engines.optimizers import ELEMENTWISE, load_state, make_optimizer
from tglo.train.engines.shards import Shards
from tglo.train.engines.whole import Whole
from tglo.train.engines.zero import Zero


def start(config: TrainConfig, device: torch.device) -> torch.device:
    """Join the process group of a launcher, or one of this process alone; returns its device."""
    _refuse(config)
    with _launched(device):
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


@contextmanager
def _launched(device: torch.device) -> Iterator[None]:
    """Give DeepSpeed the variables that it looks up; those that no launcher has set are gone afterwards, since
    they would tell later runs of this process, and processes that it starts, of a launcher.
    """
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", **meeting_place.ALONE}
    accelerator = {"DS_ACCELERATOR": "cpu"} if device.type == "cpu" else {}
    added = {name: v for name, v in {**alone, **accelerator}.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


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
        # Quantised weights are no part of a checkpoint in DeepSpeed's own format.
        self._leaves_out_frozen = quantization.kind_of(module) is not None
        self._bad = torch.zeros((), dtype=torch.bool, device=device)
        self._watch = config.engine.find_bad_gradients and self.dtype is not torch.float16
        optimizer = make_optimizer(self.config, self.trained.values())
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        with _launched(device):
            self.model, self.optimizer, _, _ = deepspeed.initialize(
                model=module,
                optimizer=optimizer,
                model_parameters=list(self.trained.values()),
                config=deepspeed_config(config),
                dist_init_required=False,
            )
        self._zero = Zero(self.optimizer, self.stage, self.trained) if self.stage else None
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

    def parts(self) -> list[Tensor]:
        """Return the float32 weights that this rank keeps an average of, not copied: under ZeRO its flat groups,
        else all on rank 0.
        """
        if self._zero is not None:
            return [group.detach() for group in self._zero.groups]
        weights = self._masters().values() if processes.rank() == 0 else ()
        return [weight.detach() for weight in weights]

    def whole(self, parts: list[Tensor]) -> dict[str, Tensor]:
        """Return tensors of the form of `parts` by the weights' names, on rank 0; collective. Under ZeRO they are
        put together in host memory, else they are not copied.
        """
        if self._zero is not None:
            return self._zero.whole(parts, self.device)
        return dict(zip(self.trained, parts, strict=True)) if parts else {}

    def fill(self, parts: list[Tensor], weights: Mapping[str, Tensor]) -> None:
        """Copy this rank's part of weights by name into tensors of the form of `parts`."""
        if self._zero is not None:
            self._zero.fill(parts, weights)
            return
        for name, part in self.whole(parts).items():
            part.copy_(weights[name])

    def wanted(self) -> dict[str, Tensor]:
        """Return tensors of the names, shapes and dtypes of `state_dict`, maybe without values."""
        return self._masters() if self._zero is None else self._zero.wanted()

    def _masters(self) -> dict[str, Tensor]:
        """Without ZeRO, the weights that the optimizer updates, by name."""
        if self.dtype == torch.float32:
            return dict(self.trained)
        # DeepSpeed's half-precision optimizer keeps them in lists.
        groups = zip(self.optimizer.fp16_groups, self.optimizer.fp32_groups, strict=True)
        masters = {id(h): f for halves, fulls in groups for h, f in zip(halves, fulls, strict=True)}
        return {name: masters[id(parameter)] for name, parameter in self.trained.items()}

    def _inner(self) -> torch.optim.Optimizer:
        """The optimizer that DeepSpeed's wraps, where it does."""
        wrapped = self.stage or self.dtype != torch.float32
        inner: torch.optim.Optimizer = self.optimizer.optimizer if wrapped else self.optimizer
        return inner

    def _scaler(self) -> Any:
        """What has the loss scale of fp16; else None."""
        if self.dtype != torch.float16:
            return None
        return self.optimizer.loss_scaler if self.stage else self.optimizer.loss_scale_config

    def state_dict(self) -> dict[str, Tensor]:
        """Trained weights by name, float32, on the CPU; collective, kept on every rank."""
        from deepspeed.utils import safe_get_full_fp32_param

        if self._zero is None:
            return {name: master.detach().float().cpu() for name, master in self._masters().items()}
        found = {}
        for name, parameter in self.trained.items():
            full = safe_get_full_fp32_param(parameter)
            found[name] = (parameter if full is None else full).detach().float().cpu()
        return found

    def checkpoint_bytes(self) -> int:
        """Return about how many bytes all ranks write together."""
        return 12 * sum(map(_count, self.trained.values()))  # float32, two moments

    def files(self) -> Files:
        """Return this rank's part of weights and optimizer state, and the loss scale, as files of a checkpoint, not
        copied.
        """
        main = processes.rank() == 0
        scale: Files = {loss_scale.FILE: loss_scale.of_deepspeed(self._scaler())} if main else {}
        if self._zero is not None:
            return self._zero.files() | scale
        return whole.files(self._inner(), self._masters()) | scale if main else {}

    def save(self, folder: Path) -> None:
        """Write this rank's files to `folder` (safetensors and JSON)."""
        write(self.files(), folder)

    def check(self, folder: Path) -> None:
        """Raise DamagedFile or OSError unless `load` can restore everything from `folder`."""
        if in_deepspeeds_format(folder):
            frozen = self._leaves_out_frozen
            deepspeed_files.check(
                folder, self.model, self.stage, self.trained, leaves_out_frozen=frozen
            )
            return
        source = open_stored(folder)
        zero = self._zero
        source.check(self._inner(), self.wanted())
        loss_scale.check(folder)
        if zero is not None and self.config.name not in ELEMENTWISE and isinstance(source, Shards):
            zero.check_groups(source)

    def load(self, folder: Path, *, weights_only: bool = False) -> None:
        """Restore what `save` of either engine wrote; `check` it first; collective. Only for folders of one's own
        runs.
        """
        if in_deepspeeds_format(folder):
            frozen = self._leaves_out_frozen
            deepspeed_files.load(folder, self.model, leaves_out_frozen=frozen)
            return
        source = open_stored(folder)
        if self._zero is not None:
            self._zero.load(source, ELEMENTWISE.get(self.config.name, ()), weights_only)
        else:
            self._load_whole(source, weights_only)
        scaler = self._scaler()
        if scaler is not None and not weights_only:
            loss_scale.restore_deepspeed(scaler, loss_scale.read(folder))

    @torch.no_grad()
    def _load_whole(self, source: Whole | Shards, weights_only: bool) -> None:
        masters = self._masters()
        for name, master in masters.items():
            master.copy_(source.weight(name))
            self.trained[name].copy_(master)
        if not weights_only:
            load_state(self._inner(), masters, source.state)


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
