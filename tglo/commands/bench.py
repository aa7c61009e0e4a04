"""The flags of `tglo bench`."""

from __future__ import annotations

from pathlib import Path

from tglo.settings import Precision


def bench(
    output: Path | None = None,
    sizes: tuple[str, ...] = (),
    device: str = "auto",
    dtype: Precision = "bf16",
    quick: bool = False,
) -> None:
    """Check the loss against float64 and time it against eager PyTorch and torch.compile.

    Args:
        output: JSON record to write.
        sizes: Family and batch, as in sdxl-8 flux-1 qwen-image-1; all that the device finishes soon if none.
        device: auto, cpu or cuda.
        dtype: Of the predictions.
        quick: One tiny size without torch.compile, to see that all works; the times mean nothing.
    """
    from tglo.bench.suite import bench as run

    wrong = run(sizes, output, device=device, dtype=dtype, quick=quick)
    if wrong:
        raise ArithmeticError(f"{wrong} results are wrong or missing; see the warnings above")
