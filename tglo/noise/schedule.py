"""Noise schedules, noising and training targets, for epsilon-, v-, x0-prediction and flow matching.

A noisy latent is x_t = a_t x0 + s_t eps. Variance-preserving schedules have a_t^2 + s_t^2 = 1; flow
matching has a_t = 1 - sigma_t, s_t = sigma_t. Training indices run from the least noise (0) to the
most (T - 1).

    prediction_type   target y            omega_t of min-SNR (arXiv 2303.09556), snr = a_t^2 / s_t^2
    epsilon           eps                 min(snr, gamma) / snr
    v_prediction      a_t eps - s_t x0    min(snr, gamma) / (snr + 1)
    sample            x0                  min(snr, gamma)
    flow              eps - x0            min(snr, gamma) s_t^2

Of flow matching also the weights of arXiv 2403.03206: sigma_sqrt, min(sigma_t^-2, 100), and cosmap,
2 / (pi (1 - 2 sigma_t + 2 sigma_t^2)), which is from 0.64 to 1.27 and 1 on average over uniform sigmas.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tglo import reference
from tglo.noise.density import Density, Resolution, name_of, uniform

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow")
# Euler's scheduler keeps 2^-24 instead of 0 for its own division; the model was trained on 0.
_ZERO_TERMINAL = 1e-6
# At a sigma of 0.1. The least of 1,000 would weigh a million, and its draws would drown all others.
_LARGEST_WEIGHT = 100.0
TIMESTEP_WEIGHTS = ("none", "min_snr", "sigma_sqrt", "cosmap")


@dataclass(frozen=True, eq=False)
class Schedule:
    """A noise schedule over T training indices.

    prediction_type: one of PREDICTION_TYPES.
    timesteps: (T,) float32, what the denoiser is called with.
    a, s: (T,) float64, the scales of the clean latent and of the noise.
    density: how often training draws each part of the schedule.
    """

    prediction_type: str
    timesteps: Tensor
    a: Tensor
    s: Tensor
    density: Density = uniform

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"unknown prediction_type {self.prediction_type!r}; "
                f"supported are {', '.join(PREDICTION_TYPES)}"
            )
        if not self.timesteps.shape == self.a.shape == self.s.shape or self.a.dim() != 1:
            raise ValueError(
                "timesteps, a and s must be one-dimensional and of one length, not "
                f"{tuple(self.timesteps.shape)}, {tuple(self.a.shape)} and {tuple(self.s.shape)}"
            )

    def __len__(self) -> int:
        return self.a.shape[0]

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> Schedule:
        """The schedule that a diffusers scheduler was configured with for training.

        Takes DDPM, DDIM, PNDM, Euler, DPM-Solver, UniPC and their like (anything with
        `alphas_cumprod`) and flow-matching schedulers. A resolution-dependent shift is left out: it
        belongs to sampling. Raises ValueError when the config has no prediction type, or one that
        is unknown here.
        """
        config = dict(scheduler.config)
        name = type(scheduler).__name__
        prediction_type = config.get("prediction_type")
        flow_matching = "beta_schedule" not in config and hasattr(scheduler, "sigmas")
        if prediction_type == "flow_prediction" or (prediction_type is None and flow_matching):
            return cls._flow(config, name)
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"{name}'s config has prediction_type {prediction_type!r}; set it to "
                "'epsilon', 'v_prediction', 'sample' or 'flow_prediction' in scheduler_config.json"
            )
        if getattr(scheduler, "alphas_cumprod", None) is None:
            raise ValueError(
                f"{name} has no alphas_cumprod, so its training noise is unknown; use the "
                "scheduler the model was trained with, such as DDPMScheduler"
            )
        alphas_cumprod = scheduler.alphas_cumprod.detach().to("cpu", torch.float64)
        if config.get("rescale_betas_zero_snr") and alphas_cumprod[-1] < _ZERO_TERMINAL:
            alphas_cumprod = alphas_cumprod.clone()
            alphas_cumprod[-1] = 0.0
        timesteps = torch.arange(alphas_cumprod.shape[0], dtype=torch.float32)
        return cls(prediction_type, timesteps, alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt())

    @classmethod
    def _flow(cls, config: dict[str, Any], name: str) -> Schedule:
        if config.get("invert_sigmas"):
            raise ValueError(f"{name} with invert_sigmas=True is not supported; set it to False")
        count = config["num_train_timesteps"]
        sigmas = torch.arange(1, count + 1, dtype=torch.float64) / count
        if not config.get("use_dynamic_shifting"):
            shift = config.get("shift", config.get("flow_shift", 1.0))
            sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
        return cls("flow", (sigmas * count).float(), 1 - sigmas, sigmas)

    def fingerprint(self) -> str:
        """A digest of everything that makes this schedule, the same on every device."""
        digest = hashlib.sha256(self.prediction_type.encode())
        for tensor in (self.timesteps, self.a, self.s):
            digest.update(tensor.cpu().numpy().tobytes())
        if self.density is not uniform:
            digest.update(name_of(self.density).encode())
        return digest.hexdigest()

    def place(self, unit: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return where in the schedule draws lie, (B,) float64 in (0, 1), from their uniform numbers and the
        shape of one image's latents.
        """
        density = self.density
        return (density.at(shape) if isinstance(density, Resolution) else density)(unit)

    def to(self, device: torch.device | str) -> Schedule:
        """The same schedule with its tensors on `device`."""
        timesteps, a, s = (values.to(device) for values in (self.timesteps, self.a, self.s))
        return replace(self, timesteps=timesteps, a=a, s=s)

    def diffuse(self, latents: Tensor, noise: Tensor, index: Tensor) -> Tensor:
        """x_t = a_t x0 + s_t eps, (B, ...) in latents.dtype.

        latents, noise (B, ...); index (B,) int64. Half-precision inputs are combined in float32 and
        rounded once. Raises ValueError for shapes that do not fit.
        """
        return self._combine(latents, noise, self.a[index], self.s[index])

    def target(self, latents: Tensor, noise: Tensor, index: Tensor) -> Tensor:
        """The target that the denoiser is trained to predict, (B, ...) in latents.dtype; see `diffuse`."""
        if self.prediction_type == "epsilon":
            return noise.to(latents.dtype)
        if self.prediction_type == "sample":
            return latents
        return self._combine(latents, noise, *self.target_scales(index))

    def target_scales(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scales of x0 and of eps in the target, (B,) float64 each."""
        a, s = self.a[index], self.s[index]
        zero, one = torch.zeros_like(a), torch.ones_like(a)
        scales = {
            "epsilon": (zero, one),
            "v_prediction": (-s, a),
            "sample": (one, zero),
            "flow": (-one, one),
        }
        return scales[self.prediction_type]

    def snr(self, index: Tensor) -> Tensor:
        """Signal-to-noise ratio a_t^2 / s_t^2, (B,) float64."""
        a, s = self.a[index], self.s[index]
        return (a / s).square()

    def timestep_weight(self, index: Tensor, kind: str = "none", gamma: float = 5.0) -> Tensor:
        """omega_t, (B,) float64: ones, or one of TIMESTEP_WEIGHTS as the module says, finite for snr 0.

        ValueError for another name, a gamma of min_snr that is not positive, and a weight of flow matching
        for a schedule of another kind.
        """
        if kind == "none":
            return torch.ones(index.shape, dtype=torch.float64, device=index.device)
        if kind not in TIMESTEP_WEIGHTS:
            known = ", ".join(map(repr, TIMESTEP_WEIGHTS))
            raise ValueError(f"unknown timestep weight {kind!r}; choose one of {known}")
        if kind in ("sigma_sqrt", "cosmap"):
            return self._sigma_weight(index, kind)
        if not gamma > 0:
            raise ValueError(f"gamma of min_snr must be positive, not {gamma}")
        snr = self.snr(index)
        clipped = snr.clamp(max=gamma)
        if self.prediction_type == "epsilon":
            return (gamma / snr).clamp(max=1.0)  # also right at a zero terminal snr
        if self.prediction_type == "sample":
            return clipped
        return clipped * self.s[index].square()  # s_t^2 = 1 / (snr + 1) for v

    def _sigma_weight(self, index: Tensor, kind: str) -> Tensor:
        if self.prediction_type != "flow":
            raise ValueError(
                f"timestep weight {kind!r} is of flow matching's sigma, and this schedule's model predicts "
                f"{self.prediction_type}; use 'min_snr' or 'none'"
            )
        sigma = self.s[index]
        if kind == "sigma_sqrt":
            return sigma.pow(-2).clamp(max=_LARGEST_WEIGHT)
        return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma.square()))

    def model_timestep(self, index: Tensor) -> Tensor:
        """The timesteps that the denoiser is called with at these indices, (B,) float32."""
        return self.timesteps[index]

    def _combine(
        self, latents: Tensor, noise: Tensor, scale: Tensor, noise_scale: Tensor
    ) -> Tensor:
        if latents.shape != noise.shape:
            raise ValueError(
                f"latents {tuple(latents.shape)} and noise {tuple(noise.shape)} must have one "
                "shape (B, ...)"
            )
        check_rows(latents, scale)
        return reference.noised(latents, noise, scale, noise_scale)


def check_rows(latents: Tensor, index: Tensor) -> None:
    """ValueError unless there is one index for each row of latents."""
    if latents.dim() == 0 or index.shape != latents.shape[:1]:
        raise ValueError(
            f"latents {tuple(latents.shape)} must have a shape (B, ...) and index "
            f"{tuple(index.shape)} the shape (B,)"
        )
