"""The same training step without tglo: as people write it with diffusers and accelerate.

`online` with the loss in the model's dtype is the step of Diffusion-DPO's script
(https://github.com/SalesforceAIResearch/DiffusionDPO), with the objective exchanged: images and
prompts encoded in every step, a second model in half precision, gradient checkpointing, errors as
(prediction - target).pow(2).mean(dim=[1, 2, 3]). In its favour two things are left out: it keeps the
VAE, the text encoders and the second model in host memory, and decodes images; here all is on the
device, and pixels are ready. For SDXL it updates with Adafactor, which has less state than AdamW;
here everyone has AdamW. The script knows Stable Diffusion only: for FLUX, its step is written with the
lines of diffusers' own script for FLUX, for Wan with the same lines on latents with frames. What differs
between models is in benchmarks/step/models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from torch import Tensor

from benchmarks.step.draws import CONFIDENCE, NoiseDraw, ScoredSamples
from benchmarks.step.encoders import Encoders
from benchmarks.step.models.model import Noised
from benchmarks.step.operations import LORA_RANK
from benchmarks.step.workplace import SEED, TEMPERATURE, Workplace
from tglo.noise.schedule import Schedule
from tglo.train.reports.metrics import Clock

LEARNING_RATE = 1e-5


@dataclass(frozen=True)
class Peer:
    """A way of writing the step."""

    name: str
    train: Literal["full", "lora"] = "full"
    """LoRA: the reference is the model with its adapters disabled. Full: a second model."""
    online: bool = False
    """Encode images and prompts in the step; else latents and embeddings are in host memory."""
    loss: Literal["model", "fp32"] = "fp32"
    """Errors in the dtype of the predictions, or upcast before."""
    checkpointing: bool = False

    reference = True  # predicts in every step

    def start(self, workplace: Workplace) -> PeerStep:
        return PeerStep(self, workplace)


class PeerStep:
    """The step of one Peer, ready to run."""

    def __init__(self, peer: Peer, workplace: Workplace) -> None:
        self.peer, self.device = peer, workplace.device
        mixed = {"bf16": "bf16", "fp32": "no"}[workplace.precision]
        self.accelerator = Accelerator(mixed_precision=mixed, cpu=self.device.type == "cpu")
        self.dtype = torch.bfloat16 if mixed == "bf16" else torch.float32
        self.size = workplace.size
        self.scheduler = self.size.make_scheduler(workplace.model)
        self.schedule = Schedule.from_scheduler(self.scheduler).to(self.device)
        self.samples = ScoredSamples(workplace)
        self.encoders = None
        if peer.online:
            self.encoders = Encoders(workplace, self.samples, self.dtype)
        else:
            self.cached = self._read_cache()
        self.count, self.batch = 0, 1

        if peer.train == "lora":
            self.reference = None
            model = self._load(workplace, self.dtype).requires_grad_(False)
            _add_lora(model, self.size.lora_targets)
        else:
            model = self._load(workplace, torch.float32)
            self.reference = self._load(workplace, self.dtype).requires_grad_(False)
        model.train()
        if peer.checkpointing:
            model.enable_gradient_checkpointing()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
        rate = get_scheduler("constant", optimizer)
        self.model, self.optimizer, self.rate = self.accelerator.prepare(model, optimizer, rate)

    def _load(self, workplace: Workplace, dtype: torch.dtype) -> Any:
        part, load = self.size.denoiser_part, self.size.denoiser_class.from_pretrained
        return load(workplace.model, subfolder=part, torch_dtype=dtype).to(self.device)

    def use(self, batch: int) -> None:
        """Set the batch of the steps from here on."""
        self.batch, self.sampler = batch, self.samples.sampler(batch)

    def compiled(self) -> bool:
        return False

    def rows(self) -> list[int]:
        """Return the samples of the next step."""
        return self.sampler.batch(self.count, 0, 0)[0].tolist()

    def step(self, clock: Clock) -> None:
        """Make one update with draws of its own."""
        self._step(clock, None)

    def checked_step(self) -> tuple[float, float]:
        """Make one update with tglo's draws, and return its loss and its gradient's norm."""
        draw = int(self.sampler.batch(self.count, 0, 0)[1][0])
        return self._step(Clock(), self.samples.draw(self.rows(), draw, self.schedule))

    def _step(self, clock: Clock, draw: NoiseDraw | None) -> tuple[float, float]:
        rows = self.rows()
        self.count += 1
        with clock.part("encode" if self.peer.online else "data"):
            latents, *text = self._inputs(rows, draw)
        with clock.part("noise"):
            if draw is None:
                noise = torch.randn_like(latents)
                index = self.size.random_index(self.scheduler, len(rows), self.device)
            else:
                noise, index = draw.noise.to(latents.dtype), draw.index
            noised = self.size.noised(self.scheduler, latents, noise, index)
        with clock.part("policy"):
            policy = self.size.predict(self.model, noised, *text)
        with clock.part("reference"), torch.no_grad():
            reference = self._predict_reference(noised, *text)
        with clock.part("loss"):
            loss = self._loss(policy, reference, noised.target, rows)
            shown = self.accelerator.gather(loss.detach().repeat(len(rows))).mean().item()
        with clock.part("backward"):
            self.accelerator.backward(loss)
        with clock.part("update"):
            norm = self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.rate.step()
            self.optimizer.zero_grad()
        return shown, 0.0 if draw is None else float(norm)

    def _inputs(self, rows: list[int], draw: NoiseDraw | None) -> tuple[Tensor, ...]:
        """Return latents and embeddings on the device, in the weights' dtype."""
        posterior = None if draw is None else draw.posterior
        if self.encoders is not None:
            return self.encoders.latents(rows, posterior), *self.encoders.text(rows)
        mean, std, *text = (
            values[rows].to(self.device, non_blocking=True).to(self.dtype) for values in self.cached
        )
        sample = torch.randn_like(mean) if posterior is None else posterior.to(self.dtype)
        return mean + std * sample, *text

    def _predict_reference(self, noised: Noised, *text: Tensor) -> Tensor:
        if self.reference is not None:
            return self.size.predict(self.reference, noised, *text)
        model = self.accelerator.unwrap_model(self.model)
        model.disable_adapters()
        prediction = self.size.predict(self.model, noised, *text)
        model.enable_adapters()
        return prediction

    def _loss(self, policy: Tensor, reference: Tensor, target: Tensor, rows: list[int]) -> Tensor:
        if self.peer.loss == "fp32":
            policy, reference, target = policy.float(), reference.float(), target.float()
        axes = list(range(1, policy.dim()))
        policy_error = (policy - target).pow(2).mean(dim=axes)
        reference_error = (reference - target).pow(2).mean(dim=axes)
        log_ratio = -(policy_error - reference_error) / TEMPERATURE
        scores = self.samples.scores[rows].to(self.device, torch.float32)
        distance = scores - self.samples.threshold
        sign = torch.where(distance >= 0, 1.0, -1.0)
        weight = 1 + CONFIDENCE * distance.abs()
        return (-weight * F.logsigmoid(sign * log_ratio)).mean()

    def _read_cache(self) -> list[Tensor]:
        """Return mean, std and embeddings of all samples, in host memory."""
        latents = self.samples.cache.batch(self.samples.ids)
        text = self.samples.cache.text(self.samples.ids)
        found = [latents["mean"], latents["std"], *(text[name] for name in self.size.cached_text)]
        return [t.pin_memory() if self.device.type == "cuda" else t for t in found]


def _add_lora(model: Any, targets: Sequence[str]) -> None:
    torch.manual_seed(SEED)  # the matrices that tglo draws
    config = LoraConfig(
        r=LORA_RANK,
        lora_alpha=LORA_RANK,
        init_lora_weights="gaussian",
        target_modules=list(targets),
    )
    model.add_adapter(config)
    cast_training_params(model, torch.float32)
