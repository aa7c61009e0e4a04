"""The operator behind `tglo.noise`: by kernel, or in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from tglo import noise, philox
from tglo.backends import choose
from tglo.noise import Key
from tglo.ops import operator


def diffuse(latents: Tensor, scale: Tensor, noise_scale: Tensor, key: Key, backend: str) -> Tensor:
    """scale * latents + noise_scale * eps, the key's; scales (B,) on the latents' device. Errors as
    for `tglo.noise.diffuse`.
    """
    if latents.requires_grad:
        raise ValueError("latents require a gradient, which noising has not; pass latents.detach()")
    draws = philox.check_key(key.seed, key.sample_ids, key.draws, key.purpose)
    if key.sample_ids.shape != latents.shape[:1]:
        raise ValueError(
            f"sample_ids {tuple(key.sample_ids.shape)} must have one id for each of the "
            f"{latents.shape[0]} rows of latents"
        )
    device = latents.device
    chosen = choose("diffuse", latents, backend)
    if chosen == "reference":
        eps = philox.normal(key.seed, key.sample_ids, draws, latents.shape[1:], key.purpose, device)
        return noise.combine(latents, eps, scale, noise_scale)
    run = operator("diffuse", chosen == "triton")
    return run(  # type: ignore[no-any-return]
        latents.contiguous(),
        scale.float(),
        noise_scale.float(),
        key.sample_ids.to(device, non_blocking=True).contiguous(),
        draws.to(device, non_blocking=True).contiguous(),
        key.seed,
        key.purpose,
    )
