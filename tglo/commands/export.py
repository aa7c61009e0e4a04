"""The flags of `tglo export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from tglo.console.verbosity import note


def export(
    run: Positional[Path],
    output: Path,
    layout: Literal["diffusers", "kohya", "merged"] = "diffusers",
    dtype: Literal["trained", "fp32", "bf16", "fp16"] = "trained",
) -> dict[str, Any]:
    """Export the newest checkpoint of a run: a diffusers folder, or a LoRA.

    Args:
        run: Output folder of `tglo train`. One process exports what any number of them trained.
        output: Folder to write; refused if it exists.
        layout: Of a LoRA: as diffusers loads it, as kohya's scripts, ComfyUI and A1111 do, or merged into a whole
            diffusers folder.
        dtype: Of the weights on the disk. trained: of what was trained fp32, of other parts as the base has
            them; the others also of the other parts, and half as large.
    """
    from tglo.devices import DTYPES
    from tglo.train.finished_run import export_run

    chosen = None if dtype == "trained" else DTYPES[dtype]
    written = export_run(run, output, layout, chosen)
    note(f"wrote {written}")
    return {"output": written}
