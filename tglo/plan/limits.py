"""Limits of DeepSpeed's ZeRO: the settings that it cannot combine, stated once for `tglo plan` and training."""

from __future__ import annotations

from tglo.settings import QUANTIZED


def zero_problem(
    optimizer: str,
    stage: int | None,
    *,
    precision: str,
    offload_optimizer: bool,
    offload_parameters: bool,
    base_weights: str = "default",
) -> str | None:
    """Say why a run with these settings cannot be, in the words of its configuration; None if it can.

    stage: ZeRO's, with 0 for DeepSpeed without ZeRO; None for the plain engine.
    """
    if base_weights in QUANTIZED and stage == 3:
        return (
            f"model.base_weights is {base_weights} and zero_stage 3: it cuts all weights into flat pieces, "
            "and the scales of quantised ones are not among them; use zero_stage 0, 1 or 2, with which "
            "each GPU holds them whole"
        )
    if offload_parameters and stage != 3:
        return f"engine.offload_parameters needs zero_stage 3, which is {stage or 0}"
    if offload_optimizer and not stage:
        return "engine.offload_optimizer needs zero_stage 1, 2 or 3, which is 0"
    if optimizer == "adafactor" and stage:
        return (
            f"optimizer.name is adafactor and zero_stage {stage}: ZeRO flattens the weights, of which "
            "adafactor needs rows and columns; use zero_stage 0 or adamw"
        )
    if optimizer == "adafactor" and stage == 0 and precision != "fp32":
        return (
            f"optimizer.name is adafactor and engine.precision {precision}: DeepSpeed then flattens the "
            "weights, of which adafactor needs rows and columns; use adamw, or engine.kind = plain"
        )
    if optimizer == "adamw8bit" and (offload_optimizer or stage == 3):
        return (
            f"optimizer.name is adamw8bit, zero_stage {stage} and offload_optimizer "
            f"{offload_optimizer}: 8-bit state goes with zero_stage 0 to 2 on the GPU; use adamw"
        )
    return None
